"""Sizes of a small ALIT."""

SPACE = {"channels": 16, "multipliers": (1, 2, 2), "blocks": 1, "codes": 8, "code_dim": 8}


SIZE = (32, 32)
