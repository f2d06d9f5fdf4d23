"""A small binomial blur, which keeps what is above half the new resolution out of a halved map (arXiv 1904.11486)."""

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override


class Blur(nn.Module):
    """Weights (1, 3, 3, 1) along each axis, with or without halving height and width.

    Args:
        stride: 2 = the map is halved, 1 = it loses nothing but a row and a column less than it is padded by.
        padding: Positions of zeros at the left and top, and at the right and bottom.

    Example:
        >>> Blur(stride=2, padding=(1, 1))(torch.ones(1, 1, 4, 4))[0, 0, 1, 1]
        tensor(0.7656)
    """

    kernel: Tensor

    def __init__(self, stride: int = 2, padding: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        self.stride = stride
        self.padding = [*padding, *padding]
        weights = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", weights[:, None] * weights[None], persistent=False)

    @override
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        kernel = repeat(self.kernel.to(features), "k l -> c 1 k l", c=features.shape[1])
        return F.conv2d(F.pad(features, self.padding), kernel, stride=self.stride, groups=features.shape[1])
