"""The amount of detail of an image, as a codec would count it, from its pixels alone."""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from imtok.nn.exact import exactly
from imtok.pixels import CHANNELS, to_rgb

BLOCK = 8
# Steps of the luma's coefficients at quality 50 (ITU-T T.81, Annex K).
STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip


def complexity(image: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Estimate the bits per pixel of a JPEG of quality 50, from its quantized coefficients of luma.

    A coefficient q takes ``2 log2(1 + |q|)`` bits here. There is no Huffman code, so batches run on any device.

    Args:
        image: Images in ``[-1, 1]`` with 1, 3 or 4 channels, or maps, which are read as the mean of their channels.
            Rows and columns beyond whole blocks of 8 x 8 do not count.

    Example:
        >>> image = torch.stack([torch.zeros(3, 16, 16), torch.rand(3, 16, 16) * 2 - 1])
        >>> complexity(image)[0] < complexity(image)[1]
        tensor(True)
    """
    with exactly(image.device):  # codes must not depend on the precision
        if image.shape[1] in CHANNELS:
            exact = to_rgb(image).float()
            luma = 127.5 * (exact * exact.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)
        else:
            exact = image.float()
            luma = 127.5 * exact.mean(1)
        height, width = luma.shape[-2] // BLOCK * BLOCK, luma.shape[-1] // BLOCK * BLOCK
        blocks = rearrange(luma[:, :height, :width], "b (h p) (w q) -> b (h w) p q", p=BLOCK, q=BLOCK)
        cosines = cosine_transform(exact.device)
        steps = torch.tensor(STEPS, dtype=exact.dtype, device=exact.device)
        levels = (cosines @ blocks @ cosines.T / steps).round()
        return 2 * (1 + levels.abs()).log2().mean((1, 2, 3))


def cosine_transform(device: torch.device) -> Float[Tensor, "8 8"]:
    """The orthonormal discrete cosine transform (DCT-II) of eight values, a row for each frequency."""
    places = torch.arange(BLOCK, device=device, dtype=torch.float32)
    rows = torch.cos(math.pi / BLOCK * (places + 0.5) * places[:, None]) * (2 / BLOCK) ** 0.5
    return torch.cat([rows[:1] / 2**0.5, rows[1:]])
