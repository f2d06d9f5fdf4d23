"""The decoder of Instella-T2I (arXiv 2506.21022): mask tokens attend to latents, and are doubled on the way."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.decoders.base import WholeDecoder
from imtok.nn.grid import grid_size, to_sequence
from imtok.nn.patches import from_patches
from imtok.nn.residual_resampling import ResidualDoubling
from imtok.nn.segment_rotations import ExactRMSNorm, GridScale, Rotary, check_scale, rotary_trunk, segment_rotation


class InstellaDecoder(WholeDecoder):
    """Blocks over latents and a grid of mask tokens, at half resolution at first, with rotary positions.

    Nothing that it learns belongs to a position, so it writes images of any size. The public code divides the grid by
    twice the number of doublings, which is right for one of them alone: here there is one.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        num_latents: How many latents an image has; the builder sets it.
        image_size: Side of the images that it is trained on, in pixels; the builder sets it.
        patch_size: Side of a patch, in pixels.
        latent_width: Width of the vectors that latents (the bits) are sums of.
        width: Width of the tokens.
        coarse_depth: Blocks at half resolution.
        depth: Blocks at full resolution.
        heads: Attention heads of each block.
        positions: What an image of another size does to the coordinates of its patches: "extrapolated" = they count
            on; "interpolated" = they span what they spanned in training.
        rotary: "pairs" = RoPE; "published" = as the public code turns queries and keys.
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If an argument has no such choice; in ``forward``, if the image is no multiple of two patches, or
            latents are too few or too many or some were not kept.

    Example:
        >>> import torch
        >>> decoder = InstellaDecoder(8, 4, 64, patch_size=8, width=32, coarse_depth=1, depth=1, heads=2)
        >>> decoder(torch.randn(1, 4, 8), size=(64, 32)).shape
        torch.Size([1, 3, 64, 32])
    """

    def __init__(
        self,
        in_dim: int,
        num_latents: int,
        image_size: int,
        patch_size: int = 16,
        latent_width: int = 768,
        width: int = 1024,
        coarse_depth: int = 8,
        depth: int = 8,
        heads: int = 16,
        positions: GridScale = "interpolated",
        rotary: Rotary = "pairs",
        checkpoint: bool = False,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        check_scale(positions)
        self.patch_size = patch_size
        self.num_latents = num_latents
        self.head_width = width // heads
        self.trained = grid_size((image_size, image_size), 2 * patch_size) if positions == "interpolated" else None
        self.embed = nn.Linear(in_dim, latent_width, bias=False)
        self.norm_in = ExactRMSNorm(latent_width, eps=1e-6)
        self.widen = nn.Linear(latent_width, width)
        self.mask = nn.Parameter(torch.randn(width) * 0.02)
        self.coarse_trunk = rotary_trunk(width, coarse_depth, heads, rotary, checkpoint)
        self.doubling = ResidualDoubling(width)
        self.trunk = rotary_trunk(width, depth, heads, rotary, checkpoint)
        self.norm_out = ExactRMSNorm(width, eps=1e-6)
        self.to_pixels = nn.Linear(width, image_channels * patch_size**2)

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return cast(nn.Parameter, self.to_pixels.weight)

    @override
    def decode(self, latents: Float[Tensor, "b n d"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        number = self.num_latents
        rows, columns = grid_size(size, 2 * self.patch_size)
        if latents.shape[1] != number:
            raise ValueError(f"latents must be {number} for this decoder, got {latents.shape[1]}")
        masks = self.mask.expand(latents.shape[0], rows * columns, -1)
        tokens = torch.cat([self.widen(self.norm_in(self.embed(latents))), masks], 1)
        tokens = self.coarse_trunk(tokens, rotation=self._rotation((rows, columns), 1))
        doubled = self.doubling(tokens[:, number:].transpose(1, 2).unflatten(2, (rows, columns)))
        tokens = torch.cat([tokens[:, :number], to_sequence(doubled)], 1)
        tokens = self.trunk(tokens, rotation=self._rotation((2 * rows, 2 * columns), 2))
        patches = self.to_pixels(self.norm_out(tokens[:, number:]))
        return from_patches(patches, (2 * rows, 2 * columns), self.patch_size)

    def _rotation(self, grid: tuple[int, int], factor: int) -> Float[Tensor, "n c"]:
        """Angles for a grid with ``factor`` rows where the coarse one has one."""
        span = (self.trained[0] * factor, self.trained[1] * factor) if self.trained else grid
        return segment_rotation(self.num_latents, grid, span, self.head_width, self.mask)
