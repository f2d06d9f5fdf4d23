"""The decoder of LaVIT (arXiv 2309.04669), from any number of tokens to a frozen net's features and to pixels."""

from typing import NamedTuple, cast

import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.decoders.base import Decoder
from imtok.nn.grid import grid_size
from imtok.nn.initialization import start_weights
from imtok.nn.patches import from_patches
from imtok.nn.qformer import QFormer
from imtok.nn.selection import kept_first
from imtok.types import Condition


class Rebuilt(NamedTuple):
    """The output of a decoder of features: the image, and the features of each of its patches."""

    image: Float[Tensor, "b c h w"]
    features: Float[Tensor, "b n c"]


class FeatureQueryDecoder(Decoder):
    """A learned query for each patch attends to the tokens. Two linear maps turn it into features and into pixels.

    The decoder knows the place of a token among the kept ones, but not the place of its patch in the image. The tokens
    themselves have to encode it. The public code has an MLP of 4.36 times the width, and no map to pixels: a diffusion
    model draws the pixels from the features.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        num_latents: Largest number of latents; the builder sets it to the encoder's.
        image_size: Side of the images, in pixels; the builder sets it.
        patch_size: Side of a patch, in pixels.
        feature_dim: Width of the frozen net's features.
        width: Width of the queries.
        depth: Number of blocks.
        heads: Attention heads of each.
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If the image size is no multiple of ``patch_size``; in ``forward``, for images of another size, or
            for more latents than there are places.

    Example:
        >>> decoder = FeatureQueryDecoder(4, 16, 32, patch_size=8, feature_dim=12, width=16, depth=1, heads=2)
        >>> decoder(torch.randn(1, 5, 4), size=(32, 32)).shape
        torch.Size([1, 3, 32, 32])
    """

    flexible = True

    def __init__(
        self,
        in_dim: int,
        num_latents: int,
        image_size: int,
        patch_size: int = 14,
        feature_dim: int = 1408,
        width: int = 1408,
        depth: int = 12,
        heads: int = 16,
        checkpoint: bool = False,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        self.grid, self.patch_size = grid_size((image_size, image_size), patch_size), patch_size
        self.embed = nn.Linear(in_dim, width)
        self.positions = nn.Parameter(torch.randn(num_latents, width) * 0.02)
        self.queries = nn.Parameter(torch.randn(self.grid[0] * self.grid[1], width) * 0.02)
        self.qformer = QFormer(width, depth, heads, checkpoint)
        self.norm = nn.LayerNorm(width)
        self.features = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, feature_dim))
        self.pixels = nn.Linear(width, image_channels * patch_size**2)
        start_weights(self, "normal")

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return cast(nn.Parameter, self.pixels.weight)

    def rebuilt(
        self, latents: Float[Tensor, "b n d"], size: tuple[int, int], keep: Bool[Tensor, "b n"] | None = None
    ) -> Rebuilt:
        """Image and features; the arguments are those of ``forward``."""
        if grid_size(size, self.patch_size) != self.grid:
            side = self.grid[0] * self.patch_size
            raise ValueError(
                f"image size must be {side} x {side}, for which there are queries, got {size[0]} x {size[1]}"
            )
        if latents.shape[1] > len(self.positions):
            raise ValueError(f"latents must be at most {len(self.positions)} for this decoder, got {latents.shape[1]}")
        places = torch.arange(latents.shape[1], device=latents.device)
        if keep is not None:
            latents = kept_first(latents, keep)
            keep = places < keep.sum(1, keepdim=True)
            latents = latents.masked_fill(~keep[..., None], 0)
            keep = keep | (places == 0)  # there is always something to see
        memory = self.embed(latents) + self.positions[: latents.shape[1]]
        queries = repeat(self.queries.to(memory.dtype), "n d -> b n d", b=latents.shape[0])
        nowhere = torch.zeros(1, memory.shape[-1], dtype=memory.dtype, device=memory.device)
        unplaced = nowhere.expand(queries.shape[1], -1), nowhere.expand(memory.shape[1], -1)
        read = self.norm(self.qformer(queries, memory, *unplaced, keep))
        return Rebuilt(from_patches(self.pixels(read), self.grid, self.patch_size), self.features(read))

    @override
    def forward(
        self,
        latents: Float[Tensor, "b n d"],
        size: tuple[int, int],
        keep: Bool[Tensor, "b n"] | None = None,
        condition: Condition | None = None,
    ) -> Float[Tensor, "b c h w"]:
        return self.rebuilt(latents, size, keep).image
