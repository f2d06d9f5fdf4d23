"""Q-Former and CNN: a 1D sequence back to a feature map and an image (GigaTok, arXiv 2504.08736; ReTok, 2601.01535)."""

from typing import Literal, Unpack

import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.decoders.base import Decoder
from imtok.decoders.cnn import CNNDecoder
from imtok.nn.convolution import CNNSize
from imtok.nn.grid import grid_size, to_map, to_sequence
from imtok.nn.positions import GridPositions
from imtok.nn.qformer import QFormer, draw_weights
from imtok.types import Condition


class QFormerDecoder(Decoder):
    """A query per position of the map gathers from the latents; a CNN makes the image of the map.

    Every query starts as the first latent: only its position tells it from the others. Latents that are missing are
    absent: there is less to gather from.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        num_latents: Latents per image; the builder sets it to the encoder's.
        image_size: Side of the images, in pixels; the builder sets it.
        redundant: How many latents more there may be in training (ReTok); as in the encoder.
        flexible: Whether it decodes any first few latents, as nested dropout trains it to.
        width: Width of the Q-Former.
        depth: Its blocks.
        heads: Its attention heads.
        latent_channels: Channels of the map between Q-Former and CNN.
        positions: "fixed" = images of ``image_size`` only; "interpolated" = positions of the map are resized.
        checkpoint: Compute Q-Former blocks again in the backward pass instead of keeping their activations.
        **cnn: Size of the CNN, as in :class:`~imtok.decoders.cnn.CNNDecoder`.

    Raises:
        ValueError: If an argument is out of range; in ``forward``, for too many latents, too few or a mask where it is
            not flexible, and for another size where positions are fixed.

    Example:
        >>> decoder = QFormerDecoder(
        ...     in_dim=8, num_latents=4, image_size=32, flexible=True, width=16, depth=1, heads=2, channels=8
        ... )
        >>> decoder(torch.randn(1, 3, 8), size=(32, 32)).shape
        torch.Size([1, 3, 32, 32])
    """

    def __init__(
        self,
        in_dim: int,
        num_latents: int,
        image_size: int,
        redundant: int = 0,
        flexible: bool = False,
        width: int = 512,
        depth: int = 6,
        heads: int = 8,
        latent_channels: int = 256,
        positions: Literal["fixed", "interpolated"] = "fixed",
        checkpoint: bool = False,
        **cnn: Unpack[CNNSize],
    ) -> None:
        super().__init__()
        if redundant < 0:
            raise ValueError(f"redundant must not be negative, got {redundant}")
        self.flexible = flexible
        self.num_latents = num_latents
        self.redundant = redundant
        self.cnn = CNNDecoder(
            latent_channels,
            attention="none",
            middle=("residual", "residual"),
            upsample="depth_to_space",
            adaptive_norm="levels",
            latent_channels=None,
            **cnn,
        )
        self.norm_in = nn.LayerNorm(latent_channels)
        self.embed = nn.Linear(latent_channels, width)
        self.latent_positions = nn.Parameter(torch.randn(num_latents + redundant, width) * width**-0.5)
        grid = grid_size((image_size, image_size), self.cnn.factor)
        self.map_positions = GridPositions(
            grid, width, self.cnn.factor, interpolate=positions == "interpolated", std=width**-0.5
        )
        self.qformer = QFormer(width, depth, heads, checkpoint)
        self.norm_out = nn.LayerNorm(width)
        self.conv_out = nn.Conv2d(width, latent_channels, 3, padding=1)
        draw_weights(self)
        self.project = nn.Linear(in_dim, latent_channels)

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return self.cnn.last_layer

    @override
    def forward(
        self,
        latents: Float[Tensor, "b n d"],
        size: tuple[int, int],
        keep: Bool[Tensor, "b n"] | None = None,
        condition: Condition | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        self._check(latents.shape[1], keep)
        map_positions = self.map_positions(grid_size(size, self.cnn.factor))
        present = None
        if keep is not None:
            latents = latents.masked_fill(~keep[..., None], 0)
            first = torch.arange(keep.shape[1], device=keep.device) == 0  # there is always something to see
            present = keep | first
        memory = self.embed(self.norm_in(self.project(latents)))
        queries = repeat(memory[:, 0], "b d -> b n d", n=len(map_positions))
        gathered = self.qformer(queries, memory, map_positions, self.latent_positions[: memory.shape[1]], present)
        features = self.conv_out(to_map(self.norm_out(gathered), size, self.cnn.factor))
        return self.cnn(to_sequence(features), size)

    def _check(self, number: int, keep: Tensor | None) -> None:
        most = self.num_latents + (self.redundant if self.training else 0)
        self.require_all(keep)
        if number > most or (not self.flexible and number != most):
            fewer = " or fewer" if self.flexible else ""
            raise ValueError(f"latents must be {most}{fewer} for this decoder, got {number}")
