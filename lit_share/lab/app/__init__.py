"""The application behind `train.py`: from a config to a trained model and `result.json`."""
