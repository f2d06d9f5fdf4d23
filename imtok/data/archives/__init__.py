"""Tar shards: read where they lie or from a URL, and written."""
