"""Label tiles of photos in a browser while the model learns: the story of `label.py`."""
