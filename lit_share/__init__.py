"""Parameter tying and parameter sharing for PyTorch Lightning."""
