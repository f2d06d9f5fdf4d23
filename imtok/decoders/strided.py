"""The decoder of AiT (arXiv 2301.02229) for masks and depth maps: transposed convolutions that double the map."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.decoders.base import WholeDecoder
from imtok.nn.convolution import ReLUBlock
from imtok.nn.grid import to_map
from imtok.pixels import from_range


class StridedDecoder(WholeDecoder):
    """A linear map, residual blocks at the resolution of the latents, 4 x 4 transposed convolutions, and the pixels.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        channels: Channels at full resolution; at the lowest there are ``channels`` times 2 to the power of
            ``doublings - 1``, and the first transposed convolution keeps them.
        doublings: Number of transposed convolutions that double height and width, 1 or more: the encoder's halvings.
        blocks: Residual blocks at the lowest resolution, 0 or more.
        value_range: Of the pixels that the net writes, as of the encoder.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If ``doublings`` is below 1; in ``forward``, if the latents do not fill an image of that size, or
            some were not kept.

    Example:
        >>> import torch
        >>> decoder = StridedDecoder(in_dim=8, channels=4, doublings=3, image_channels=1)
        >>> decoder(torch.randn(1, 32, 8), size=(32, 64)).shape
        torch.Size([1, 1, 32, 64])
    """

    def __init__(
        self,
        in_dim: int,
        channels: int = 16,
        doublings: int = 4,
        blocks: int = 2,
        value_range: Sequence[float] = (-1.0, 1.0),
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        if doublings < 1:
            raise ValueError(f"doublings must be at least 1, got {doublings}")
        self.factor = 2**doublings
        self.value_range = (value_range[0], value_range[1])
        widths = [channels * 2**level for level in reversed(range(doublings))]
        self.conv_in = nn.Sequential(nn.Conv2d(in_dim, widths[0], 1), nn.ReLU())
        self.blocks = nn.Sequential(*(ReLUBlock(widths[0]) for _ in range(blocks)))
        doubling = [
            nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
            for before, after in pairwise([widths[0], *widths])
        ]
        self.doublings = nn.Sequential(*(layer for conv in doubling for layer in (conv, nn.ReLU())))
        self.conv_out = nn.Conv2d(widths[-1], image_channels, 1)

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return cast(nn.Parameter, self.conv_out.weight)

    @override
    def decode(self, latents: Float[Tensor, "b n d"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        features = self.blocks(self.conv_in(to_map(latents, size, self.factor)))
        return from_range(self.conv_out(self.doublings(features)), self.value_range)
