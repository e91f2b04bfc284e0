"""From a source of images to batches of pixels: manifest, split, decoding, augmentation, pipeline."""
