"""Backbones, frozen features, the head trained on them, and the joined model."""
