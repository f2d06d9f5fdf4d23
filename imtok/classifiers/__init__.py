"""Classifiers that read the tokens of a store in place of pixels."""
