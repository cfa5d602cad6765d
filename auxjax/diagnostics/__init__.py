"""Measurements of what heads do to training."""
