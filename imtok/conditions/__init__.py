"""Conditions: captions and labels of images to what encoder and decoder are told of them, a file each."""
