"""Decoders: latents ``b n d`` to images ``b 3 h w``, a file each."""
