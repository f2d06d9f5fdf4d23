"""A tokenizer whose tokens are the rows of an image, and pictures for it."""

from typing import ClassVar

import torch
from torch import nn

from imtok.decoders.base import Decoder
from imtok.encoders.base import Encoder
from imtok.pixels import to_uint8
from imtok.quantizers.vq import VQ
from imtok.tokenizer import Tokenizer
from imtok.types import Latents

ROWS, LEVELS = 8, 16


class RowEncoder(Encoder):
    """A latent per row of the image: its grey level. A budget shifts all of them, as encoders with one may do."""

    def __init__(self, shift=0.0):
        super().__init__()
        self.shift = shift

    def forward(self, image, length=None, condition=None):
        return Latents(image.mean((1, 3))[..., None] + (0.0 if length is None else self.shift * length))

    def num_latents(self, size):
        return ROWS


class RowDecoder(Decoder):
    """Paints the rows that it has; the others stay mid-grey. Counts the images that it is given."""

    flexible = True
    decoded: ClassVar[list[tuple[int, int]]] = []

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    @property
    def last_layer(self):
        return self.weight

    def forward(self, latents, size, keep=None, condition=None):
        self.decoded.append((latents.shape[0], latents.shape[1]))
        image = latents.new_zeros(len(latents), 3, *size)
        image[:, :, : latents.shape[1]] = latents[:, None] * self.weight
        return image if condition is None else image + condition.quality[:, None, None, None]


def rows_tokenizer(shift=0.0):
    RowDecoder.decoded.clear()
    table = VQ(dim=1, codebook_size=LEVELS, normalize=False)
    with torch.no_grad():
        table.weight.copy_(torch.linspace(-1, 1, LEVELS)[:, None])
    return Tokenizer(RowEncoder(shift), table, RowDecoder())


def pictures(number=12):
    """Rows of the codebook's levels: any prefix is right about the rows it has, and wrong about the others."""
    levels = torch.linspace(-1, 1, LEVELS)[torch.randint(LEVELS, (number, ROWS))]
    return levels[:, None, :, None].expand(-1, 3, -1, 5).contiguous()


def psnr_by_length(image):
    """Closed form: what is missing is mid-grey, level 128."""
    missing = (to_uint8(image)[:, 0, :, 0].double() - 128).square()
    error = torch.stack([missing[:, length:].sum(1) / ROWS for length in range(1, ROWS + 1)], 1)
    return (10 * torch.log10(255**2 / error)).clamp(max=100)
