"""The transformer decoder of ViT-VQGAN (arXiv 2110.04627) and BSQ-ViT (arXiv 2406.07548): a patch per latent."""

from collections.abc import Sequence
from typing import Literal, cast, get_args

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.decoders.base import WholeDecoder
from imtok.nn.grid import grid_size
from imtok.nn.initialization import Start, start_weights
from imtok.nn.norms import TokenNorm, token_norm
from imtok.nn.patches import from_patches
from imtok.nn.positions import GridPositions
from imtok.nn.transformer import Transformer
from imtok.pixels import from_range

Positions = Literal["fixed", "interpolated"]
Reads = Literal["all", "last_half"]


class ViTDecoder(WholeDecoder):
    """Latents with learned positions, transformer blocks, and two linear maps with a tanh between them.

    With ``reads="last_half"`` the first half of each latent's channels does not matter to the image: DualToken (arXiv
    2503.14324) has the meaning there.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images that the positions are for, in pixels; the builder sets it.
        patch_size: Side of a patch, in pixels.
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Attention heads of each.
        hidden: Width between the two last maps.
        norm_in: Of the tokens before the first block.
        reads: Which channels of the latents: "all" or "last_half".
        positions: "fixed" = other image sizes are refused; "interpolated" = the positions are resized for them.
        value_range: Of the pixels that the net writes.
        start: How weights start (``imtok.nn.initialization``); the published "normal" is small for narrow nets.
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If the image size is no multiple of ``patch_size``, or ``reads`` has no such choice; in ``forward``,
            for another size unless positions are interpolated, or if the latents do not fill the image or some were
            not kept.

    Example:
        >>> import torch
        >>> decoder = ViTDecoder(in_dim=8, image_size=32, patch_size=8, width=32, depth=1, heads=2)
        >>> decoder(torch.randn(1, 16, 8), size=(32, 32)).shape
        torch.Size([1, 3, 32, 32])
    """

    def __init__(
        self,
        in_dim: int,
        image_size: int,
        patch_size: int = 8,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        norm_in: TokenNorm = "layer",
        reads: Reads = "all",
        positions: Positions = "fixed",
        value_range: Sequence[float] = (-1.0, 1.0),
        start: Start = "normal",
        checkpoint: bool = False,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        if reads not in get_args(Reads):
            raise ValueError(f"reads must be one of {', '.join(get_args(Reads))}, got {reads!r}")
        grid = grid_size((image_size, image_size), patch_size)
        self.patch_size = patch_size
        self.value_range = (value_range[0], value_range[1])
        self.first = 0 if reads == "all" else in_dim // 2
        self.embed = nn.Linear(in_dim - self.first, width)
        self.positions = GridPositions(grid, width, patch_size, positions == "interpolated")
        self.norm_in = token_norm(norm_in, width)
        self.trunk = Transformer(width, depth, heads, checkpoint=checkpoint)
        self.norm_out = token_norm("layer", width)
        self.head = nn.Sequential(nn.Linear(width, hidden), nn.Tanh())
        self.pixels = nn.Linear(hidden, image_channels * patch_size**2)
        start_weights(self, start)

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return cast(nn.Parameter, self.pixels.weight)

    @override
    def decode(self, latents: Float[Tensor, "b n d"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        grid = grid_size(size, self.patch_size)
        positions = self.positions(grid)
        if latents.shape[1] != len(positions):
            raise ValueError(
                f"latents must be {len(positions)} ({grid[0]} x {grid[1]}) to fill an image of {size[0]} x {size[1]}, "
                f"got {latents.shape[1]}"
            )
        tokens = self.trunk(self.norm_in(self.embed(latents[..., self.first :]) + positions))
        patches = self.pixels(self.head(self.norm_out(tokens)))
        return from_range(from_patches(patches, grid, self.patch_size, "channel row column"), self.value_range)
