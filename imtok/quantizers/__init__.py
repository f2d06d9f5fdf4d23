"""Quantizers: latents ``b n d`` to ids ``b t g`` and back, a file each."""
