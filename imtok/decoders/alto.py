"""The decoder of ALTo (arXiv 2505.16495): the first few latents of an image, and zeros for the others."""

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from imtok.decoders.titok import TiTokPixelDecoder
from imtok.types import Condition


class ALToDecoder(TiTokPixelDecoder):
    """TiTok's one-stage decoder, in which a latent that is left out is zero and still has its place.

    So training can take a latent away by degrees: what it is multiplied by has a gradient.

    Arguments are those of :class:`~imtok.decoders.titok.TiTokPixelDecoder`, with ``flexible=True``.

    Example:
        >>> import torch
        >>> decoder = ALToDecoder(
        ...     in_dim=12, image_size=64, num_latents=8, width=32, depth=1, heads=2, flexible=True
        ... )
        >>> latents, keep = torch.randn(1, 8, 12), torch.arange(8)[None] < 3
        >>> torch.equal(decoder(latents, (64, 64), keep), decoder(latents[:, :3], (64, 64)))
        True
    """

    @override
    def forward(
        self,
        latents: Float[Tensor, "b n d"],
        size: tuple[int, int],
        keep: Bool[Tensor, "b n"] | None = None,
        condition: Condition | None = None,
    ) -> Float[Tensor, "b c h w"]:
        self._check(latents.shape[1], keep)
        present = latents if keep is None else latents.masked_fill(~keep[..., None], 0)
        return super().forward(F.pad(present, (0, 0, 0, self.num_latents - latents.shape[1])), size, None, condition)
