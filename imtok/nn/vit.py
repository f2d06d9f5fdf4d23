"""The vision transformers of DINOv2, DINOv3, CLIP, SigLIP2, MAE and EVA-02, as one net."""

from collections.abc import Sequence
from typing import Literal, TypedDict, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.nn.grid import grid_size, to_sequence
from imtok.nn.grid_rotations import Rotary, grid_rotations
from imtok.nn.initialization import Start, start_weights
from imtok.nn.norms import token_norm
from imtok.nn.positions import Grid, GridPositions
from imtok.nn.transformer import BlockStyle, Transformer

Table = Literal["learned", "none"]


class BlockSettings(TypedDict, total=False):
    """The arguments of :class:`ViT` that are about its blocks, for signatures that take them by ``**net``."""

    heads: int
    style: BlockStyle | None
    drop_path: float
    start: Start
    checkpoint: bool


class ViTSettings(BlockSettings, total=False):
    """These and the arguments that are about its tokens."""

    class_tokens: int
    registers: int
    table: Table
    rotary: Rotary
    rotary_grid: int
    norm_in: bool


class ViT(nn.Module):
    """Patches behind a class token and registers, which all see each other in every block.

    Args:
        grid: Rows and columns of patches that learned positions are for.
        patch_size: Side of a patch, in pixels.
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Attention heads of each.
        class_tokens: 1, or 0 for nets that have none (SigLIP2).
        registers: Learned tokens behind the class token (arXiv 2309.16588).
        table: Positions that are added to the class token and to the patches: "learned" or "none".
        rotary: How attention turns the patches' channels (:func:`imtok.nn.grid_rotations.grid_rotations`).
        rotary_grid: Rows, and columns, of the grid that "eva" stretches to.
        norm_in: Norm the tokens before the first block (CLIP); the patches then have no bias.
        norm_out: Norm them behind the last one.
        channels: Of the pixels that patches are cut from; 0 = there are none, and :meth:`blocks` is given tokens.
        style: Of the blocks.
        drop_path: Probability that a sample passes a half of the last block by, in training, growing from 0.
        start: How weights start (``imtok.nn.initialization``).
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.

    Raises:
        ValueError: If an argument has no such choice or is out of range.

    Example:
        >>> net = ViT((2, 2), patch_size=8, width=32, depth=1, heads=2, registers=4)
        >>> net(torch.rand(1, 3, 16, 16)).shape, net.prefix
        (torch.Size([1, 9, 32]), 5)
    """

    def __init__(
        self,
        grid: Grid,
        patch_size: int,
        width: int,
        depth: int,
        heads: int = 12,
        class_tokens: int = 1,
        registers: int = 0,
        table: Table = "learned",
        rotary: Rotary = "none",
        rotary_grid: int = 16,
        norm_in: bool = False,
        norm_out: bool = True,
        channels: int = 3,
        style: BlockStyle | None = None,
        drop_path: float = 0.0,
        start: Start = "normal",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        for name, value, choices in (("table", table, get_args(Table)), ("rotary", rotary, get_args(Rotary))):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        for name, count, most in (("class_tokens", class_tokens, 1), ("registers", registers, None)):
            if count < 0 or (most is not None and count > most):
                raise ValueError(f"{name} must be {'0 or 1' if most else 'at least 0'}, got {count}")
        self.style = style = style or BlockStyle(eps=1e-6)
        self.grid, self.patch_size = grid, patch_size
        self.table: Table = table
        self.rotary: Rotary = rotary
        self.start: Start = start
        self.rotary_grid = (rotary_grid, rotary_grid)
        self.class_token = nn.Parameter(torch.randn(1, width) * 0.02) if class_tokens else None
        learned = table == "learned"
        self.class_position = nn.Parameter(torch.randn(1, width) * 0.02) if class_tokens and learned else None
        self.registers = nn.Parameter(torch.randn(registers, width) * 0.02) if registers else None
        self.positions = GridPositions(grid, width, patch_size, interpolate=True) if learned else None
        self.patches = (
            nn.Conv2d(channels, width, patch_size, stride=patch_size, bias=not norm_in) if channels else nn.Identity()
        )
        self.norm_in = token_norm("layer" if norm_in else "none", width, style.eps)
        self.trunk = Transformer(width, depth, heads, style, drop_path=drop_path, checkpoint=checkpoint)
        self.norm = token_norm(style.norm if norm_out else "none", width, style.eps)
        self.prefix = class_tokens + registers
        self.width, self.heads, self.head_width = width, heads, width // heads
        grid_rotations(rotary, grid, self.head_width, grid, 0, torch.empty(0))  # refuses heads that it cannot turn
        start_weights(self, start)

    @override
    def forward(
        self, pixels: Float[Tensor, "b 3 h w"], layers: Sequence[int] = (), norm_last: bool = False
    ) -> Float[Tensor, "b n e"]:
        """Features of all tokens: class token, registers, patches row by row.

        Args:
            pixels: Normalised as the net wants them.
            layers: Blocks whose outputs stand side by side in channels; () = the last one, normed.
            norm_last: Norm the last block among ``layers``, too.
        """
        grid = grid_size((pixels.shape[-2], pixels.shape[-1]), self.patch_size)
        patches = to_sequence(self.patches(pixels))
        if self.positions is not None:
            patches = patches + self.positions(grid)
        return self.blocks([*self.first(patches), patches], grid, layers, norm_last)

    def first(self, like: Float[Tensor, "b n d"]) -> list[Float[Tensor, "b m d"]]:
        """What stands before the patches, for as many images as ``like`` holds."""
        found = []
        if self.class_token is not None:
            place = self.class_position
            found.append(self.class_token if place is None else self.class_token + place)
        if self.registers is not None:
            found.append(self.registers)
        return [part.to(like.dtype).expand(like.shape[0], -1, -1) for part in found]

    def blocks(
        self,
        parts: Sequence[Float[Tensor, "b _ d"]],
        grid: Grid,
        layers: Sequence[int] = (),
        norm_last: bool = False,
    ) -> Float[Tensor, "b n e"]:
        """What the blocks make of a sequence: what stands before the patches, and patches of ``grid``."""
        tokens = self.norm_in(torch.cat(list(parts), 1))
        rotation = grid_rotations(
            self.rotary, grid, self.head_width, self.rotary_grid, tokens.shape[1] - grid[0] * grid[1], tokens
        )
        seen: list[Tensor] | None = [] if layers else None
        last = self.trunk(tokens, rotation=rotation, seen=seen)
        if seen is None:
            return self.norm(last)
        if norm_last:
            seen[-1] = self.norm(seen[-1])
        return torch.cat([seen[layer] for layer in layers], -1)
