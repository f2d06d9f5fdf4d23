"""imtok: train, evaluate and export discrete image tokenizers."""

__version__ = "0.1.0"
