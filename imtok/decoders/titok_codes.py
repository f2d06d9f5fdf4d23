"""TiTok's two-stage decoder (arXiv 2406.07550): codes of MaskGIT's VQGAN first, then pixels from their mixture."""

from collections.abc import Sequence
from typing import Unpack

from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.decoders.codes import CodeDecoder
from imtok.decoders.mask_tokens import MaskTokenDecoder, TrunkSettings
from imtok.nn.initialization import start_weights
from imtok.nn.norms import set_groups
from imtok.pretrained import RANDOM
from imtok.spaces.maskgit import PIXELS
from imtok.types import Condition


class TiTokCodeDecoder(MaskTokenDecoder, CodeDecoder):
    """Each mask token scores the codes at its position; MaskGIT's decoder draws the mean code that these scores expect.

    Stage 1 trains the scores alone, against the codes of the frozen net (:mod:`imtok.objectives.proxy`): freeze
    ``decoder.codebook`` and ``decoder.pixels``. Stage 2 trains the whole decoder on pixels, the codebook too, with
    encoder and quantizer frozen. One-D-Piece (arXiv 2501.10064) is the same net, ``flexible``.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images that the positions are for, in pixels; the builder sets it.
        num_latents: The most latents that it decodes; the builder sets it.
        weights: Path of ``maskgit-vqgan-imagenet-f16-256.bin``, for codebook and convolutions, or "random".
        channels: Channels of the convolutions at full resolution.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first. One level more doubles
            the pixels per code: 5 levels are 16 x 16 pixels, as published.
        blocks: Residual blocks per level.
        codes: Number of codes.
        code_dim: Width of the codes.
        groups: Number of groups in each norm of maps; None = 32, and fewer if there are fewer than 128 channels.
        **trunk: As of :class:`~imtok.decoders.mask_tokens.MaskTokenDecoder`.

    Raises:
        ValueError: If the image size is no multiple of the pixels per code; in ``forward`` and ``logits``, if latents
            or size do not fit.

    Example:
        >>> import torch
        >>> decoder = TiTokCodeDecoder(in_dim=12, image_size=64, num_latents=8, width=32, depth=1, heads=2, channels=16)
        >>> latents = torch.randn(1, 8, 12)
        >>> decoder.logits(latents, size=(64, 64)).shape, decoder(latents, size=(64, 64)).shape
        (torch.Size([1, 16, 1024]), torch.Size([1, 3, 64, 64]))
    """

    files = ("maskgit-vqgan-imagenet-f16-256.bin",)

    def __init__(
        self,
        in_dim: int,
        image_size: int,
        num_latents: int,
        weights: str | None = RANDOM,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        codes: int = 1024,
        code_dim: int = 256,
        groups: int | None = None,
        **trunk: Unpack[TrunkSettings],
    ) -> None:
        patch_size = 2 ** (len(multipliers) - 1)
        super().__init__(in_dim, image_size, num_latents, patch_size, value_range=PIXELS, **trunk)
        self.weights = weights
        self.head = nn.Sequential(nn.Linear(self.width, 2 * self.width), nn.Tanh(), nn.Linear(2 * self.width, codes))
        start_weights(self.head, self.start)
        self.add_codes(codes, code_dim, channels, multipliers, blocks)
        set_groups(self.pixels, groups)

    @override
    def logits(
        self,
        latents: Float[Tensor, "b n d"],
        size: tuple[int, int],
        keep: Bool[Tensor, "b n"] | None = None,
        condition: Condition | None = None,
    ) -> Float[Tensor, "b m v"]:
        return self.head(self.features(latents, size, keep))
