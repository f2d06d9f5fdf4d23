"""Priors that a tokenizer learns with: how well its tokens can be told from those before them."""
