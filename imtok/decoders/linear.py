"""The cheapest 1D decoder: a linear map from any first latents to the whole image, with a hidden layer beside it."""

from typing import cast

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.decoders.base import Decoder
from imtok.types import Condition


class LinearDecoder(Decoder):
    """Each pixel is a weighted sum of the latents and of a hidden layer that reads them. Left-out latents are zero.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images, in pixels; the builder sets it.
        num_latents: Largest number of latents; the builder sets it.
        width: Width of the hidden layer, at least 1.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If ``width`` is below 1; in ``forward``, for images of another size or too many latents.

    Example:
        >>> decoder = LinearDecoder(4, image_size=32, num_latents=8)
        >>> latents, keep = torch.randn(1, 8, 4), torch.arange(8)[None] < 3
        >>> decoder(latents, (32, 32), keep).shape
        torch.Size([1, 3, 32, 32])
    """

    flexible = True

    def __init__(
        self, in_dim: int, image_size: int, num_latents: int, width: int = 256, image_channels: int = 3
    ) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.image_size, self.num_latents = image_size, num_latents
        self.hidden = nn.Sequential(nn.Linear(num_latents * in_dim, width), nn.SiLU())
        self.pixels = nn.Linear(num_latents * in_dim + width, image_channels * image_size**2)

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return cast(nn.Parameter, self.pixels.weight)

    @override
    def forward(
        self,
        latents: Float[Tensor, "b n d"],
        size: tuple[int, int],
        keep: Bool[Tensor, "b n"] | None = None,
        condition: Condition | None = None,
    ) -> Float[Tensor, "b c h w"]:
        if size != (self.image_size, self.image_size):
            raise ValueError(
                f"image size must be {self.image_size} x {self.image_size} for a linear map to all pixels, got "
                f"{size[0]} x {size[1]}"
            )
        count = latents.shape[1]
        if not 1 <= count <= self.num_latents:
            raise ValueError(f"latents must be between 1 and {self.num_latents} for this decoder, got {count}")
        present = latents if keep is None else latents.masked_fill(~keep[..., None], 0)
        flat = F.pad(present, (0, 0, 0, self.num_latents - count)).flatten(1)
        written = self.pixels(torch.cat([flat, self.hidden(flat)], -1))
        return rearrange(written, "b (c h w) -> b c h w", h=size[0], w=size[1])
