"""The encoder of DualToken (arXiv 2503.14324): one transformer, read early for the pixels and late for the meaning."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.encoders.base import Encoder
from imtok.nn.grid import grid_size, to_sequence
from imtok.nn.initialization import Start, start_weights
from imtok.nn.norms import token_norm
from imtok.nn.positions import GridPositions
from imtok.nn.transformer import BlockStyle, Transformer
from imtok.pixels import to_range
from imtok.types import Condition, Latents


class TwoDepthEncoder(Encoder):
    """Patches pass three stages of blocks; meaning is read after the last, pixels after the second and the first.

    Each is normed and mapped to a half of the latents' channels: first the meaning, then the pixels.

    Args:
        out_dim: Width of the latents, even; the builder sets it to the quantizer's.
        image_size: Side of the images that the positions are for, in pixels; the builder sets it.
        patch_size: Side of a patch, in pixels.
        width: Width of the tokens.
        stages: Number of blocks in each of the three stages.
        heads: Attention heads of each block.
        style: Of the blocks; None = that of ViT.
        shortcut: Factor of the first stage's tokens, which are added to the second's where pixels are read.
        positions: "fixed" = other image sizes are refused; "interpolated" = the positions are resized for them.
        value_range: Of the pixels that the net computes with.
        start: How weights start (``imtok.nn.initialization``); the published "normal" is small for narrow nets.
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.

    Raises:
        ValueError: If ``out_dim`` is odd, there are not three stages or the image size is no multiple of
            ``patch_size``; in ``forward`` and ``num_latents``, for images of another size unless positions are
            interpolated.

    Example:
        >>> encoder = TwoDepthEncoder(8, image_size=32, patch_size=8, width=32, stages=(1, 1, 2), heads=2)
        >>> encoder(torch.rand(1, 3, 32, 32) * 2 - 1).values.shape
        torch.Size([1, 16, 8])
    """

    def __init__(
        self,
        out_dim: int,
        image_size: int,
        patch_size: int = 14,
        width: int = 1152,
        stages: Sequence[int] = (4, 2, 20),
        heads: int = 16,
        style: BlockStyle | None = None,
        shortcut: float = 0.6,
        positions: Literal["fixed", "interpolated"] = "fixed",
        value_range: Sequence[float] = (-1.0, 1.0),
        start: Start = "normal",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if out_dim % 2:
            raise ValueError(f"the latents' width must be even to hold meaning and pixels, got {out_dim}")
        if len(stages) != 3:
            raise ValueError(f"stages must be three numbers of blocks, got {list(stages)}")
        style = style or BlockStyle()
        grid = grid_size((image_size, image_size), patch_size)
        self.patch_size = patch_size
        self.shortcut = shortcut
        self.value_range = (value_range[0], value_range[1])
        self.patches = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.positions = GridPositions(grid, width, patch_size, positions == "interpolated")
        self.early, self.middle, self.late = (
            Transformer(width, depth, heads, style, checkpoint=checkpoint) for depth in stages
        )
        self.norm_semantic = token_norm("layer", width, style.eps)
        self.norm_pixels = token_norm("layer", width, style.eps)
        self.project_semantic = nn.Linear(width, out_dim // 2)
        self.project_pixels = nn.Linear(width, out_dim // 2)
        start_weights(self, start)

    @override
    def forward(
        self, image: Float[Tensor, "b 3 h w"], length: int | None = None, condition: Condition | None = None
    ) -> Latents:
        positions = self.positions(grid_size((image.shape[-2], image.shape[-1]), self.patch_size))
        early = self.early(to_sequence(self.patches(to_range(image, self.value_range))) + positions)
        middle = self.middle(early)
        semantic = self.project_semantic(self.norm_semantic(self.late(middle)))
        pixels = self.project_pixels(self.norm_pixels(middle + self.shortcut * early))
        return Latents(torch.cat([semantic, pixels], -1))

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        return len(self.positions(grid_size(size, self.patch_size)))
