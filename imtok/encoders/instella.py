"""The encoder of Instella-T2I (arXiv 2506.21022): latents attend to patches, which are halved on the way."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.encoders.base import ImageEncoder
from imtok.nn.grid import grid_size, to_sequence
from imtok.nn.residual_resampling import ResidualHalving
from imtok.nn.segment_rotations import ExactRMSNorm, GridScale, Rotary, check_scale, rotary_trunk, segment_rotation


class InstellaEncoder(ImageEncoder):
    """Blocks over latents and patches, at half resolution after ``depth`` of them, with rotary positions.

    Nothing that it learns belongs to a position, so images of any size are read into the same number of latents. The
    public code pairs channels in another way than RoPE does: ``rotary="published"`` reads its weights.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images that it is trained on, in pixels; the builder sets it.
        patch_size: Side of a patch, in pixels.
        latents: How many latents an image becomes.
        width: Width of the tokens.
        depth: Blocks at full resolution.
        coarse_depth: Blocks at half resolution.
        heads: Attention heads of each block.
        positions: What an image of another size does to the coordinates of its patches: "extrapolated" = they count
            on; "interpolated" = they span what they spanned in training.
        rotary: "pairs" = RoPE; "published" = as the public code turns queries and keys.
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If an argument has no such choice; in ``forward`` and ``num_latents``, if the image is no multiple
            of two patches.

    Example:
        >>> import torch
        >>> encoder = InstellaEncoder(8, 64, patch_size=8, latents=4, width=32, depth=1, coarse_depth=1, heads=2)
        >>> encoder(torch.rand(1, 3, 64, 32) * 2 - 1).values.shape
        torch.Size([1, 4, 8])
    """

    def __init__(
        self,
        out_dim: int,
        image_size: int,
        patch_size: int = 16,
        latents: int = 128,
        width: int = 768,
        depth: int = 8,
        coarse_depth: int = 4,
        heads: int = 12,
        positions: GridScale = "interpolated",
        rotary: Rotary = "pairs",
        checkpoint: bool = False,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        check_scale(positions)
        self.patch_size = patch_size
        self.head_width = width // heads
        self.trained = grid_size((image_size, image_size), 2 * patch_size) if positions == "interpolated" else None
        self.patches = nn.Conv2d(image_channels, width, patch_size, stride=patch_size)
        self.queries = nn.Parameter(torch.randn(latents, width) * 0.02)
        self.trunk = rotary_trunk(width, depth, heads, rotary, checkpoint)
        self.halving = ResidualHalving(width)
        self.coarse_trunk = rotary_trunk(width, coarse_depth, heads, rotary, checkpoint)
        self.norm_out = ExactRMSNorm(width, eps=1e-6)
        self.project = nn.Sequential(nn.Linear(width, width), nn.Linear(width, out_dim))

    @override
    def encode(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        number = len(self.queries)
        features = self.patches(image)
        rows, columns = features.shape[-2:]
        tokens = torch.cat([self.queries.expand(image.shape[0], -1, -1), to_sequence(features)], 1)
        tokens = self.trunk(tokens, rotation=self._rotation((rows, columns), 2))
        latents, patches = tokens[:, :number], tokens[:, number:]
        halved = self.halving(patches.transpose(1, 2).unflatten(2, (rows, columns)))
        tokens = torch.cat([latents, to_sequence(halved)], 1)
        tokens = self.coarse_trunk(tokens, rotation=self._rotation((rows // 2, columns // 2), 1))
        return self.project(self.norm_out(tokens[:, :number]))

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        grid_size(size, 2 * self.patch_size)
        return len(self.queries)

    def _rotation(self, grid: tuple[int, int], factor: int) -> Float[Tensor, "n c"]:
        """Angles for a grid with ``factor`` rows where the coarse one has one."""
        span = (self.trained[0] * factor, self.trained[1] * factor) if self.trained else grid
        return segment_rotation(len(self.queries), grid, span, self.head_width, self.queries)
