"""Frozen autoencoders in whose latents some tokenizers work, a file each."""
