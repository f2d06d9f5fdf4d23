"""The encoder of FQGAN (arXiv 2411.16681): a convolutional net, and a transformer of its own for each kind of code."""

from collections.abc import Sequence
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.encoders.base import Encoder
from imtok.encoders.cnn import CNNEncoder
from imtok.nn.convolution import Attention, Layer
from imtok.nn.grid import grid_size
from imtok.nn.initialization import Start, start_weights
from imtok.nn.positions import Grid, GridPositions
from imtok.nn.resampling import Downsampling
from imtok.nn.transformer import Transformer
from imtok.types import Condition, Latents


class AdapterEncoder(Encoder):
    """A CNN reads the image once; adapters make of its map what each part of a product quantizer is to code.

    The latents of the adapters stand side by side in channels, those of the first part first.

    Args:
        out_dim: Width of the latents, a multiple of ``branches``; the builder sets it to the quantizer's.
        image_size: Side of the images that the adapters' positions are for, in pixels; the builder sets it.
        branches: Number of adapters.
        width: Channels of the CNN's map and width of the adapters.
        depth: Transformer blocks of each adapter.
        heads: Attention heads of each block.
        channels: The CNN's at full resolution; this and what follows as in ``CNNEncoder``.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first.
        blocks: Residual blocks per level.
        attention: Where the CNN attends: "lowest" resolution or "none".
        middle: Layers at the lowest resolution, after its level.
        downsample: How the resolution is halved.
        bias: Whether the CNN's convolutions have a bias.
        kernel_out: Side of the kernel that writes the map, odd.
        positions: "fixed" = other image sizes are refused; "interpolated" = the positions are resized for them.
        start: How the adapters' weights start (``imtok.nn.initialization``).
        checkpoint: Compute the adapters' blocks again in the backward pass instead of keeping their activations.

    Raises:
        ValueError: If an argument has no such choice or ``out_dim`` is no multiple of ``branches``; in ``forward`` and
            ``num_latents``, for images of another size unless positions are interpolated.

    Example:
        >>> encoder = AdapterEncoder(16, image_size=32, width=32, depth=1, heads=2, channels=32, multipliers=(1, 2))
        >>> encoder(torch.rand(1, 3, 32, 32) * 2 - 1).values.shape
        torch.Size([1, 256, 16])
    """

    def __init__(
        self,
        out_dim: int,
        image_size: int,
        branches: int = 2,
        width: int = 256,
        depth: int = 6,
        heads: int = 8,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        attention: Attention = "lowest",
        middle: Sequence[Layer] = ("residual", "attention", "residual"),
        downsample: Downsampling = "padded_end",
        bias: bool = True,
        kernel_out: int = 3,
        positions: Literal["fixed", "interpolated"] = "fixed",
        start: Start = "xavier",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if branches < 1 or out_dim % branches:
            raise ValueError(f"branches must be a divisor of the latents' width {out_dim}, got {branches}")
        self.trunk = CNNEncoder(
            width, channels, multipliers, blocks, attention, middle, downsample, bias, kernel_out, latent_channels=None
        )
        grid = grid_size((image_size, image_size), self.trunk.factor)
        adapters = (
            _Adapter(
                GridPositions(grid, width, self.trunk.factor, positions == "interpolated"),
                Transformer(width, depth, heads, checkpoint=checkpoint),
                nn.Linear(width, out_dim // branches),
            )
            for _ in range(branches)
        )
        self.adapters = nn.ModuleList(adapters)
        start_weights(self.adapters, start)

    @override
    def forward(
        self, image: Float[Tensor, "b 3 h w"], length: int | None = None, condition: Condition | None = None
    ) -> Latents:
        grid = self._grid((image.shape[-2], image.shape[-1]))
        features = self.trunk(image).values
        return Latents(torch.cat([adapter(features, grid) for adapter in self.adapters], -1))

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        rows, columns = self._grid(size)
        return rows * columns

    def _grid(self, size: tuple[int, int]) -> Grid:
        """Rows and columns of the map; refuses sizes without positions."""
        grid = grid_size(size, self.trunk.factor)
        cast(_Adapter, self.adapters[0]).positions(grid)
        return grid


class _Adapter(nn.Module):
    """Positions, blocks, a norm and a linear map."""

    def __init__(self, positions: GridPositions, blocks: Transformer, project: nn.Linear) -> None:
        super().__init__()
        self.positions = positions
        self.transformer = blocks
        self.norm = nn.LayerNorm(project.in_features)
        self.project = project

    @override
    def forward(self, features: Float[Tensor, "b n d"], grid: Grid) -> Float[Tensor, "b n d2"]:
        return self.project(self.norm(self.transformer(features + self.positions(grid))))
