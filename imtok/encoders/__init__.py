"""Encoders: images ``b 3 h w`` to latents ``b n d``, a file each."""
