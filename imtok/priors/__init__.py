"""Generators of tokens, as probes of a tokenizer."""
