"""The story of `train.py`."""
