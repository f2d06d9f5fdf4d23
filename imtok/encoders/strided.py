"""The encoder of AiT (arXiv 2301.02229) for masks and depth maps: one convolution after the other halves them."""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.encoders.base import GridEncoder
from imtok.nn.convolution import ReLUBlock
from imtok.nn.grid import to_sequence
from imtok.pixels import to_range


class StridedEncoder(GridEncoder):
    """4 x 4 convolutions of stride 2 with ReLU, residual blocks at the lowest resolution, and a linear map.

    There are no norms: what the latents are scales with the pixels, so ``value_range`` matters.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        channels: Channels at half of the resolution; each further convolution doubles them.
        halvings: Number of convolutions that halve height and width, 1 or more: 4 are 16 x 16 pixels per latent.
        blocks: Residual blocks at the lowest resolution, 0 or more.
        value_range: Of the pixels that the net computes with, as black and white: [0, 65.535] are the metres of 16-bit
            depth files in millimetres.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If ``halvings`` is below 1; in ``forward`` and ``num_latents``, if the image is no multiple of the
            pixels per latent.

    Example:
        >>> import torch
        >>> encoder = StridedEncoder(out_dim=8, channels=4, halvings=3, image_channels=1)
        >>> encoder(torch.rand(1, 1, 32, 64) * 2 - 1).values.shape
        torch.Size([1, 32, 8])
    """

    def __init__(
        self,
        out_dim: int,
        channels: int = 16,
        halvings: int = 4,
        blocks: int = 2,
        value_range: Sequence[float] = (-1.0, 1.0),
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        if halvings < 1:
            raise ValueError(f"halvings must be at least 1, got {halvings}")
        self.factor = 2**halvings
        self.value_range = (value_range[0], value_range[1])
        widths = [channels * 2**level for level in range(halvings)]
        halving = [
            nn.Conv2d(before, after, 4, stride=2, padding=1) for before, after in pairwise([image_channels, *widths])
        ]
        self.halvings = nn.Sequential(*(layer for conv in halving for layer in (conv, nn.ReLU())))
        self.blocks = nn.Sequential(*(ReLUBlock(widths[-1]) for _ in range(blocks)))
        self.conv_out = nn.Conv2d(widths[-1], out_dim, 1)

    @override
    def encode(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        features = self.blocks(self.halvings(to_range(image, self.value_range)))
        return to_sequence(self.conv_out(features))
