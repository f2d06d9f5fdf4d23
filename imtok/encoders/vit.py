"""The transformer encoder of ViT-VQGAN (arXiv 2110.04627) and BSQ-ViT (arXiv 2406.07548): a latent per patch."""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.encoders.base import ImageEncoder
from imtok.nn.grid import grid_size, to_sequence
from imtok.nn.initialization import Start, start_weights
from imtok.nn.norms import TokenNorm, token_norm
from imtok.nn.positions import GridPositions
from imtok.nn.transformer import Transformer
from imtok.pixels import to_range

Positions = Literal["fixed", "interpolated"]


class ViTEncoder(ImageEncoder):
    """Patches with learned positions, transformer blocks, a norm and a linear map.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images that the positions are for, in pixels; the builder sets it.
        patch_size: Side of a patch, in pixels.
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Attention heads of each.
        norm_in: Of the tokens before the first block; with "none" the patches get a bias instead.
        positions: "fixed" = other image sizes are refused; "interpolated" = the positions are resized for them.
        value_range: Of the pixels that the net computes with.
        start: How weights start (``imtok.nn.initialization``); the published "normal" is small for narrow nets.
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If the image size is no multiple of ``patch_size``; in ``forward`` and ``num_latents``, for images
            of another size unless positions are interpolated.

    Example:
        >>> import torch
        >>> encoder = ViTEncoder(out_dim=8, image_size=32, patch_size=8, width=32, depth=1, heads=2)
        >>> encoder(torch.rand(1, 3, 32, 32) * 2 - 1).values.shape
        torch.Size([1, 16, 8])
    """

    def __init__(
        self,
        out_dim: int,
        image_size: int,
        patch_size: int = 8,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        norm_in: TokenNorm = "layer",
        positions: Positions = "fixed",
        value_range: Sequence[float] = (-1.0, 1.0),
        start: Start = "normal",
        checkpoint: bool = False,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        grid = grid_size((image_size, image_size), patch_size)
        self.patch_size = patch_size
        self.value_range = (value_range[0], value_range[1])
        self.patches = nn.Conv2d(image_channels, width, patch_size, stride=patch_size, bias=norm_in == "none")
        self.positions = GridPositions(grid, width, patch_size, positions == "interpolated")
        self.norm_in = token_norm(norm_in, width)
        self.trunk = Transformer(width, depth, heads, checkpoint=checkpoint)
        self.norm_out = token_norm("layer", width)
        self.project = nn.Linear(width, out_dim)
        start_weights(self, start)

    @override
    def encode(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        positions = self.positions(grid_size((image.shape[-2], image.shape[-1]), self.patch_size))
        tokens = to_sequence(self.patches(to_range(image, self.value_range))) + positions
        return self.project(self.norm_out(self.trunk(self.norm_in(tokens))))

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        return len(self.positions(grid_size(size, self.patch_size)))
