"""Data: where images come from, how they are decoded, in which order they are seen."""
