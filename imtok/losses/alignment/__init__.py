"""Alignment: losses between a tokenizer's features and those of other nets, a file each."""
