"""The cheapest 1D encoder: one linear map of the whole image, a learnt Karhunen-Loeve transform."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.encoders.base import ImageEncoder


class LinearEncoder(ImageEncoder):
    """Each channel of each latent is a weighted sum of all pixels.

    It is for small images. With nested dropout the first latents explain the most, as principal components do.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images, in pixels; the builder sets it.
        latents: Number of latents.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If there is no latent; in ``forward`` and ``num_latents``, for images of another size.

    Example:
        >>> import torch
        >>> LinearEncoder(4, image_size=32, latents=8)(torch.rand(1, 3, 32, 32) * 2 - 1).values.shape
        torch.Size([1, 8, 4])
    """

    def __init__(self, out_dim: int, image_size: int, latents: int = 16, image_channels: int = 3) -> None:
        super().__init__()
        if latents < 1:
            raise ValueError(f"latents must be at least 1, got {latents}")
        self.image_size, self.count = image_size, latents
        self.project = nn.Linear(image_channels * image_size**2, latents * out_dim)

    @override
    def encode(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        return rearrange(self.project(image.flatten(1)), "b (n d) -> b n d", n=self.count)

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        side = self.image_size
        if size != (side, side):
            raise ValueError(
                f"image size must be {side} x {side} for a linear map of all pixels, got {size[0]} x {size[1]}"
            )
        return self.count
