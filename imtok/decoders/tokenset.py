"""TokenSet's decoder (arXiv 2503.16425): the latents are a set, in any order the same image."""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.decoders.codes import MaskGITPixels
from imtok.decoders.mask_tokens import MaskTokenDecoder
from imtok.nn.initialization import Start, start_weights
from imtok.nn.maskgit import MaskGITDecoder
from imtok.nn.norms import set_groups
from imtok.types import Condition


class TokenSetDecoder(MaskTokenDecoder, MaskGITPixels):
    """Mask tokens read latents without positions, and write features that MaskGIT's decoder draws.

    The official code also shuffles the latents whenever it decodes. Attention without positions makes the same of every
    order, up to rounding, so this is left out and decoding stays a function of the set.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images that the positions of mask tokens are for, in pixels; the builder sets it.
        num_latents: How many latents it decodes; the builder sets it.
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Attention heads of each.
        positions: "fixed" = other image sizes are refused; "interpolated" = the positions are resized for them.
        feature_dim: Width of the features.
        channels: Channels of the convolutions at full resolution.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first. One level more doubles
            the pixels per feature: 5 levels are 16 x 16 pixels, as published.
        blocks: Residual blocks per level.
        start: How weights start (``imtok.nn.initialization``); the published "normal" is small for narrow nets.
        checkpoint: Compute transformer blocks again in the backward pass instead of keeping their activations.
        groups: Number of groups in each norm of maps; None = 32, and fewer if there are fewer than 128 channels.

    Raises:
        ValueError: If the image size is no multiple of the pixels per feature, or ``groups`` do not divide channels; in
            ``forward``, if latents or size do not fit.

    Example:
        >>> import torch
        >>> decoder = TokenSetDecoder(in_dim=12, image_size=64, num_latents=8, width=32, depth=1, heads=2, channels=16)
        >>> latents = torch.randn(1, 8, 12, dtype=torch.float64)
        >>> torch.allclose(decoder.double()(latents, (64, 64)), decoder(latents.flip(1), (64, 64)))
        True
    """

    unordered = True

    def __init__(
        self,
        in_dim: int,
        image_size: int,
        num_latents: int,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        positions: Literal["fixed", "interpolated"] = "fixed",
        feature_dim: int = 256,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        start: Start = "normal",
        checkpoint: bool = False,
        groups: int | None = None,
    ) -> None:
        patch_size = 2 ** (len(multipliers) - 1)
        super().__init__(
            in_dim,
            image_size,
            num_latents,
            patch_size,
            width,
            depth,
            heads,
            latent_positions="none",
            positions=positions,
            start=start,
            checkpoint=checkpoint,
        )
        self.head = nn.Sequential(nn.Linear(width, 2 * width), nn.Tanh(), nn.Linear(2 * width, feature_dim))
        start_weights(self.head, start)
        self.pixels = MaskGITDecoder(feature_dim, channels, multipliers, blocks)
        set_groups(self.pixels, groups)

    @override
    def forward(
        self,
        latents: Float[Tensor, "b n d"],
        size: tuple[int, int],
        keep: Bool[Tensor, "b n"] | None = None,
        condition: Condition | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        return self.drawn(self.head(self.features(latents, size, keep)), size)
