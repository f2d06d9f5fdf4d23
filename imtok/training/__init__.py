"""Training: the only folder that imports Lightning."""
