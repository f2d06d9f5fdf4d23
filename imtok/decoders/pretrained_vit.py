"""A decoder of the blocks of DINOv2, DINOv3, CLIP, SigLIP2, MAE or EVA-02, which may begin with their weights."""

from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.decoders.base import WholeDecoder
from imtok.nn.grid import grid_size
from imtok.nn.grid_rotations import Rotary
from imtok.nn.initialization import Start, start_weights
from imtok.nn.learning import Train
from imtok.nn.patches import from_patches
from imtok.nn.transformer import BlockStyle
from imtok.nn.vit import Table, ViT
from imtok.nn.vit_part import PretrainedViT
from imtok.nn.vit_resize import resize_positions, squarest
from imtok.pixels import from_range
from imtok.pretrained import RANDOM

Writes = Literal["latents", "mask_tokens"]


class PretrainedViTDecoder(PretrainedViT, WholeDecoder):
    """Latents behind a class token and registers, the blocks of a published net, and a linear map to patches of pixels.

    With ``writes="mask_tokens"`` it is ImageFolder's (arXiv 2410.01756): a mask token for each patch stands before the
    latents, which have the class token before them once more, and the grid's positions, resized to the squarest grid
    of as many. A learned level tells both halves of the sequence apart.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images that the positions are for, in pixels; the builder sets it.
        num_latents: Latents of such an image; the builder sets it.
        weights: As for :class:`imtok.encoders.pretrained_vit.PretrainedViTEncoder`. What a file says of patches is not
            used.
        patch_size: Side of the patches that are written, in pixels.
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Attention heads of each.
        class_tokens: 1, or 0 for nets that have none.
        registers: Register tokens.
        table: Added positions: "learned", resized for other images than ``image_size``, or "none".
        rotary: Turned positions: "none", "dinov3" or "eva".
        rotary_grid: Patches along each side that "eva" counts, whatever the image.
        norm_in: Norm the tokens before the first block, as CLIP does.
        style: Of the blocks.
        writes: What becomes the patches: the "latents" themselves, one for each, or "mask_tokens".
        train: What of the net learns: "all", "none", the "last" blocks, or adapters ("lora").
        last_blocks: How many the last blocks are.
        lora_rank: Rank of the adapters.
        drop_path: Probability that a sample passes a half of the last block by, in training, growing from 0.
        value_range: Of the pixels that the net writes.
        start: How weights start that no file gives (``imtok.nn.initialization``).
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.

    Raises:
        ValueError: If an argument has no such choice or is out of range, or the image size is no multiple of
            ``patch_size``; with mask tokens, if positions are not learned alone; in ``forward``, if the latents do not
            fill the image or some were not kept.

    Example:
        >>> decoder = PretrainedViTDecoder(6, image_size=64, num_latents=16, width=32, depth=2, heads=2)
        >>> decoder(torch.randn(1, 16, 6), size=(64, 64)).shape
        torch.Size([1, 3, 64, 64])
    """

    def __init__(
        self,
        in_dim: int,
        image_size: int,
        num_latents: int,
        weights: str | None = RANDOM,
        patch_size: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        class_tokens: int = 1,
        registers: int = 0,
        table: Table = "learned",
        rotary: Rotary = "none",
        rotary_grid: int = 16,
        norm_in: bool = False,
        style: BlockStyle | None = None,
        writes: Writes = "latents",
        train: Train = "all",
        last_blocks: int = 4,
        lora_rank: int = 16,
        drop_path: float = 0.0,
        value_range: Sequence[float] = (-1.0, 1.0),
        start: Start = "normal",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if writes not in get_args(Writes):
            raise ValueError(f"writes must be one of {', '.join(get_args(Writes))}, got {writes!r}")
        self.weights, self.layers = weights, []
        self.patch_size, self.num_latents = patch_size, num_latents
        self.value_range = (value_range[0], value_range[1])
        # Codes to tokens of the net.
        self.embed = nn.Linear(in_dim, width)
        masked = writes == "mask_tokens"
        if masked and (table != "learned" or rotary != "none"):
            raise ValueError(f"table must be learned and rotary none for mask tokens, got {table} and {rotary}")
        self.mask_token = nn.Parameter(torch.randn(1, width) * 0.02) if masked else None
        self.levels = nn.Parameter(torch.randn(2, width) * 0.02) if masked else None
        # The net, of which all or some learns.
        self.net = ViT(
            grid_size((image_size, image_size), patch_size),
            patch_size,
            width,
            depth,
            heads,
            class_tokens,
            registers,
            table,
            rotary,
            rotary_grid,
            norm_in,
            channels=0,
            style=style,
            drop_path=drop_path,
            start=start,
            checkpoint=checkpoint,
        )
        self.let_learn(train, last_blocks, lora_rank)
        # Tokens to pixels.
        self.pixels = nn.Linear(width, 3 * patch_size**2)
        start_weights(self.embed, start)
        start_weights(self.pixels, start)

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return cast(nn.Parameter, self.pixels.weight)

    @override
    def decode(self, latents: Float[Tensor, "b n d"], size: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
        grid = grid_size(size, self.patch_size)
        wanted = grid[0] * grid[1] if self.mask_token is None else self.num_latents
        if latents.shape[1] != wanted:
            raise ValueError(
                f"latents must be {wanted} to fill an image of {size[0]} x {size[1]}, got {latents.shape[1]}"
            )
        tokens = self.embed(latents)
        first = self.net.first(tokens)
        places = self.net.positions(grid) if self.net.positions is not None else None
        if self.mask_token is None or self.levels is None:
            parts = [*first, tokens if places is None else tokens + places]
        else:
            assert self.net.positions is not None
            own = resize_positions(self.net.positions.table, squarest(self.num_latents))
            masks = (self.mask_token + self.net.positions(grid)).to(tokens.dtype).expand(latents.shape[0], -1, -1)
            parts = [
                torch.cat([*first, masks], 1) + self.levels[0],
                torch.cat([*first, tokens + own], 1) + self.levels[1],
            ]
        read = self.net.blocks(parts, grid)[:, self.net.prefix : self.net.prefix + grid[0] * grid[1]]
        return from_range(from_patches(self.pixels(read), grid, self.patch_size), self.value_range)
