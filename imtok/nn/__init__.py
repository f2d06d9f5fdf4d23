"""Building blocks: no idea of tokens or images."""
