"""The application behind `train.py`: config in, trained pair and `result.json` out."""
