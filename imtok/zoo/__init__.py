"""Checkpoints of other code, read into imtok: a declarative table for each source."""
