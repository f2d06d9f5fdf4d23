"""A decoder of the blocks of DINOv2, DINOv3, CLIP, SigLIP2, MAE or EVA-02, which may begin with their weights."""

from collections.abc import Sequence
from typing import Literal, Unpack, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.decoders.base import WholeDecoder
from imtok.nn.grid import grid_size
from imtok.nn.initialization import start_weights
from imtok.nn.patches import from_patches
from imtok.nn.vit_part import PretrainedViT, PretrainedViTSettings
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
        weights: What the net begins with (:meth:`imtok.nn.vit_part.PretrainedViT.take_net`). What a file says of
            patches is not used.
        patch_size: Side of the patches that are written, in pixels.
        width: Width of the tokens.
        depth: Number of blocks.
        writes: What becomes the patches: the "latents" themselves, one for each, or "mask_tokens".
        value_range: Of the pixels that the net writes.
        **net: What of the net learns, and what it is made of (there).

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
        writes: Writes = "latents",
        value_range: Sequence[float] = (-1.0, 1.0),
        **net: Unpack[PretrainedViTSettings],
    ) -> None:
        super().__init__()
        if writes not in get_args(Writes):
            raise ValueError(f"writes must be one of {', '.join(get_args(Writes))}, got {writes!r}")
        self.patch_size, self.num_latents = patch_size, num_latents
        self.value_range = (value_range[0], value_range[1])
        # Codes to tokens of the net.
        self.embed = nn.Linear(in_dim, width)
        masked = writes == "mask_tokens"
        self.mask_token = nn.Parameter(torch.randn(1, width) * 0.02) if masked else None
        self.levels = nn.Parameter(torch.randn(2, width) * 0.02) if masked else None
        grid = grid_size((image_size, image_size), patch_size)
        self.take_net(weights, grid, patch_size, width, depth, channels=0, **net)
        if masked and (self.net.table != "learned" or self.net.rotary != "none"):
            raise ValueError(
                f"table must be learned and rotary none for mask tokens, got {self.net.table} and {self.net.rotary}"
            )
        # Tokens to pixels.
        self.pixels = nn.Linear(width, 3 * patch_size**2)
        start_weights(self.embed, self.net.start)
        start_weights(self.pixels, self.net.start)

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
