"""CNN and Q-Former: a feature map to a 1D sequence (GigaTok, arXiv 2504.08736; ReTok, arXiv 2601.01535)."""

from typing import Literal, Unpack

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.encoders.base import ImageEncoder
from imtok.encoders.cnn import CNNEncoder
from imtok.nn.convolution import CNNSize
from imtok.nn.grid import grid_size
from imtok.nn.positions import GridPositions
from imtok.nn.qformer import QFormer, draw_weights, pooled_queries


class QFormerEncoder(ImageEncoder):
    """Queries gather from the map of a CNN. They start as means of the map over ever finer grids, coarse to fine.

    Queries see one another in both directions: the first few latents of an image are not those that fewer queries
    would give.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images, in pixels; the builder sets it.
        latents: Latents per image.
        redundant: How many of the last latents are computed twice, the second time behind all others, at positions of
            their own (ReTok). Training returns these too, for nested dropout to drop first; evaluation computes them,
            since the others see them, and leaves them out.
        width: Width of the Q-Former.
        depth: Its blocks.
        heads: Its attention heads.
        latent_channels: Channels of the map between CNN and Q-Former.
        positions: "fixed" = images of ``image_size`` only; "interpolated" = positions of the map are resized.
        checkpoint: Compute Q-Former blocks again in the backward pass instead of keeping their activations.
        **cnn: Size of the CNN, as in :class:`~imtok.encoders.cnn.CNNEncoder`.

    Raises:
        ValueError: If an argument is out of range; in ``forward`` and ``num_latents``, for images of a size that it
            cannot read.

    Example:
        >>> encoder = QFormerEncoder(out_dim=8, image_size=32, latents=4, width=16, depth=1, heads=2, channels=8)
        >>> encoder(torch.rand(1, 3, 32, 32) * 2 - 1).values.shape
        torch.Size([1, 4, 8])
    """

    def __init__(
        self,
        out_dim: int,
        image_size: int,
        latents: int = 256,
        redundant: int = 0,
        width: int = 512,
        depth: int = 6,
        heads: int = 8,
        latent_channels: int = 256,
        positions: Literal["fixed", "interpolated"] = "fixed",
        checkpoint: bool = False,
        **cnn: Unpack[CNNSize],
    ) -> None:
        super().__init__()
        if latents < 1 or not 0 <= redundant <= latents:
            raise ValueError(
                f"latents must be at least 1 and redundant in [0, latents], got {latents} and {redundant} redundant"
            )
        self.latents = latents
        self.redundant = redundant
        self.cnn = CNNEncoder(
            latent_channels,
            attention="none",
            middle=("residual", "residual"),
            latent_channels=None,
            **cnn,
        )
        self.norm_in = nn.LayerNorm(latent_channels)
        self.embed = nn.Linear(latent_channels, width)
        grid = grid_size((image_size, image_size), self.cnn.factor)
        self.map_positions = GridPositions(
            grid, width, self.cnn.factor, interpolate=positions == "interpolated", std=width**-0.5
        )
        self.start = nn.Linear(width, width)
        self.latent_positions = nn.Parameter(torch.randn(latents + redundant, width) * width**-0.5)
        self.qformer = QFormer(width, depth, heads, checkpoint)
        self.norm_out = nn.LayerNorm(width)
        self.out = nn.Linear(width, latent_channels)
        draw_weights(self)
        self.project = nn.Linear(latent_channels, out_dim)

    @override
    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        grid = grid_size((image.shape[-2], image.shape[-1]), self.cnn.factor)
        map_positions = self.map_positions(grid)
        memory = self.embed(self.norm_in(self.cnn(image).values))
        means = pooled_queries(rearrange(memory, "b (h w) d -> b d h w", h=grid[0]), self.latents)
        queries = self.start(torch.cat([means, means[:, self.latents - self.redundant :]], 1))
        gathered = self.qformer(queries, memory, self.latent_positions, map_positions)
        if not self.training:
            gathered = gathered[:, : self.latents]
        return self.project(self.out(self.norm_out(gathered)))

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        self.map_positions(grid_size(size, self.cnn.factor))
        return self.latents
