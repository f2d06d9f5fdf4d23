"""Measures: what is computed in a pass over images, a file each, and the pass itself."""
