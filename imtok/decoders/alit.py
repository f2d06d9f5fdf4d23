"""The decoder of ALIT (arXiv 2411.02393): that of TiTok and One-D-Piece, around MAGE's codes."""

from imtok.decoders.titok_codes import TiTokCodeDecoder
from imtok.spaces.vqgan import read_mage


class ALITDecoder(TiTokCodeDecoder):
    """Mask tokens read the latents and score the codes at their positions; the mean code becomes pixels.

    Stage 1 trains the scores alone: freeze ``decoder.codebook`` and ``decoder.pixels``. Stage 2 trains all but the
    codebook. Arguments are those of :class:`~imtok.decoders.titok_codes.TiTokCodeDecoder`, with ``weights`` the path
    of MAGE's ``vqgan_jax_strongaug.ckpt``, or "random".

    Example:
        >>> import torch
        >>> decoder = ALITDecoder(in_dim=12, image_size=64, num_latents=8, width=32, depth=1, heads=2, channels=16)
        >>> decoder(torch.randn(1, 8, 12), size=(64, 64)).shape
        torch.Size([1, 3, 64, 64])
    """

    files = ("vqgan_jax_strongaug.ckpt",)
    read = staticmethod(read_mage)
