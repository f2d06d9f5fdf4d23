"""The decoder of DualToken (arXiv 2503.14324): attention, a map of another size, and the CNN of VQGAN."""

from collections.abc import Sequence
from math import isqrt

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.decoders.base import WholeDecoder
from imtok.decoders.cnn import CNNDecoder
from imtok.nn.attention_projection import AttentionProjection
from imtok.nn.convolution import activated_norm
from imtok.nn.grid import grid_size, to_sequence


class ResizedCNNDecoder(WholeDecoder):
    """Draws an image from the last half of each latent's channels: the first half has the meaning.

    A causal layer of attention widens the latents. Their square map is resized to the grid of a CNN, which has another
    number of pixels per position than the encoder.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        num_latents: Latents per image, a square number; the builder sets it to the encoder's.
        width: Width that attention makes of them.
        map_channels: Channels of the map that the CNN is given.
        channels: Channels of the CNN at full resolution.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first.
        blocks: Residual blocks per level.

    Raises:
        ValueError: If ``num_latents`` is no square number, or ``in_dim`` is below 2; in ``forward``, for latents of
            another number, a mask, or an image that the CNN does not fill, or that is not square.

    Example:
        >>> import torch
        >>> sizes = {"width": 16, "map_channels": 16, "channels": 8, "multipliers": (1, 1, 2), "blocks": 1}
        >>> decoder = ResizedCNNDecoder(in_dim=8, num_latents=9, **sizes)
        >>> decoder(torch.randn(1, 9, 8), size=(32, 32)).shape
        torch.Size([1, 3, 32, 32])
    """

    def __init__(
        self,
        in_dim: int,
        num_latents: int,
        width: int = 1152,
        map_channels: int = 1024,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 4, 4, 8),
        blocks: int = 3,
    ) -> None:
        super().__init__()
        if isqrt(num_latents) ** 2 != num_latents:
            raise ValueError(f"latents must be a square number for this decoder, got {num_latents}")
        if in_dim < 2:
            raise ValueError(f"the latents' width must be at least 2 to hold meaning and pixels, got {in_dim}")
        self.num_latents, self.first = num_latents, in_dim // 2
        self.widen = AttentionProjection(in_dim - self.first, width, causal=True)
        self.narrow = nn.Sequential(
            activated_norm(width),
            nn.Conv2d(width, map_channels, 1),
            activated_norm(map_channels),
            nn.Conv2d(map_channels, map_channels, 3, padding=1),
        )
        self.shortcut_map = nn.Identity() if width == map_channels else nn.Conv2d(width, map_channels, 1)
        self.cnn = CNNDecoder(map_channels, channels, multipliers, blocks, latent_channels=None)

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return self.cnn.last_layer

    @override
    def decode(self, latents: Float[Tensor, "b n d"], size: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
        if latents.shape[1] != self.num_latents:
            raise ValueError(f"latents must be {self.num_latents} for this decoder, got {latents.shape[1]}")
        grid = grid_size(size, self.cnn.factor)
        if grid[0] != grid[1]:
            raise ValueError(f"image size must be that of a square for this decoder, got {size[0]} x {size[1]}")
        tokens = self.widen(latents[..., self.first :])
        features = rearrange(tokens, "b (h w) d -> b d h w", h=isqrt(self.num_latents))
        if features.shape[-2:] != grid:
            features = F.interpolate(features, grid, mode="bilinear")
        return self.cnn(to_sequence(self.shortcut_map(features) + self.narrow(features)), size)
