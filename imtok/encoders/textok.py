"""The encoder of TexTok (arXiv 2412.05796): learned tokens read patches and text, so the text need not be encoded."""

from collections.abc import Sequence
from typing import Literal

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.encoders.base import Encoder
from imtok.nn.grid import grid_size, to_sequence
from imtok.nn.initialization import Start, start_weights
from imtok.nn.positions import GridPositions
from imtok.nn.text import check_text, text_rows
from imtok.nn.transformer import Transformer
from imtok.pixels import to_range
from imtok.types import Condition, Latents


class TexTokEncoder(Encoder):
    """Patches, learned latent tokens and text see each other in every block; the latent tokens become the latents.

    Text features pass through a linear map and have learned positions. An image without text gets a learned vector in
    place of each row of them, and so does a row that says nothing.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images that the positions are for, in pixels; the builder sets it.
        latents: Number of latent tokens.
        patch_size: Side of a patch, in pixels.
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Attention heads of each.
        context_dim: Width of the text features.
        context_length: The most rows of them.
        text_dim: Width of those that the condition gives; the builder sets it. None = it gives none.
        text_length: How many of them it gives; the builder sets it. None = it gives none.
        positions: Of the patches: "fixed" = other image sizes are refused; "interpolated" = resized for them.
        value_range: Of the pixels that the net computes with.
        start: How weights start (``imtok.nn.initialization``); "normal" is small for narrow nets.
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.

    Raises:
        ValueError: If the image size is no multiple of ``patch_size``, or the condition's text has other sizes than
            ``context_dim`` and ``context_length`` say; in ``forward`` and ``num_latents``, for images of another size
            unless positions are interpolated.

    Example:
        >>> encoder = TexTokEncoder(out_dim=8, image_size=32, latents=4, width=32, depth=1, heads=2, context_dim=16)
        >>> told = Condition(text=torch.randn(1, 7, 16))
        >>> encoder(torch.zeros(1, 3, 32, 32), condition=told).values.shape
        torch.Size([1, 4, 8])
    """

    takes = needs = ("text",)

    def __init__(
        self,
        out_dim: int,
        image_size: int,
        latents: int = 32,
        patch_size: int = 8,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        context_dim: int = 2048,
        context_length: int = 128,
        text_dim: int | None = None,
        text_length: int | None = None,
        positions: Literal["fixed", "interpolated"] = "fixed",
        value_range: Sequence[float] = (-1.0, 1.0),
        start: Start = "normal",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        check_text(context_dim, context_length, text_dim, text_length)
        std = width**-0.5
        grid = grid_size((image_size, image_size), patch_size)
        self.patch_size = patch_size
        self.value_range = (value_range[0], value_range[1])
        self.patches = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.positions = GridPositions(grid, width, patch_size, positions == "interpolated", std)
        self.latents = nn.Parameter(torch.randn(latents, width) * std)
        self.embed_context = nn.Linear(context_dim, width)
        self.context_positions = nn.Parameter(torch.randn(context_length, width) * std)
        self.missing_context = nn.Parameter(torch.zeros(context_dim))
        self.norm_in = nn.LayerNorm(width)
        self.trunk = Transformer(width, depth, heads, checkpoint=checkpoint)
        self.norm_out = nn.LayerNorm(width)
        self.project = nn.Linear(width, out_dim)
        start_weights(self, start)

    @override
    def forward(
        self, image: Float[Tensor, "b 3 h w"], length: int | None = None, condition: Condition | None = None
    ) -> Latents:
        positions = self.positions(grid_size((image.shape[-2], image.shape[-1]), self.patch_size))
        patches = to_sequence(self.patches(to_range(image, self.value_range))) + positions
        latents = repeat(self.latents, "n d -> b n d", b=image.shape[0]).to(patches.dtype)
        rows = text_rows(condition, self.missing_context, len(self.context_positions), patches)
        text = (self.embed_context(rows) + self.context_positions[: rows.shape[1]]).to(patches.dtype)
        # patches | latents | text
        tokens = self.trunk(self.norm_in(torch.cat([patches, latents, text], 1)))
        first = patches.shape[1]
        return Latents(self.project(self.norm_out(tokens[:, first : first + latents.shape[1]])))

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        self.positions(grid_size(size, self.patch_size))
        return len(self.latents)
