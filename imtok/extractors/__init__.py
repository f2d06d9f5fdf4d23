"""Frozen nets that turn images into the features which distances between sets of images are measured in."""
