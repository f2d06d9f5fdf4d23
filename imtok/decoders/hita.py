"""From holistic tokens and patches to an image, holistic tokens first (Hita, arXiv 2507.02358)."""

from typing import Literal, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.decoders.base import WholeDecoder
from imtok.decoders.cnn import CNNDecoder
from imtok.nn.convolution import CNNSize
from imtok.nn.grid import grid_size
from imtok.nn.positions import GridPositions
from imtok.nn.transformer import BlockStyle, Transformer
from imtok.nn.visibility import visibility


class HitaDecoder(WholeDecoder):
    """A causal trunk over holistic latents and patches, read a few positions early, then a CNN.

    The map at a patch is what the trunk makes ``shift`` positions before it. So it cannot see the patch's own code,
    which makes it use the holistic latents; the last ``shift`` patches are never seen at all.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        num_latents: Latents per image, holistic ones and patches; the builder sets it to the encoder's.
        image_size: Side of the images, in pixels; the builder sets it.
        shift: How many positions early the trunk is read, at most the number of holistic latents.
        patch_dim: Channels of the patches' latents that stand for something; None = all.
        width: Width of the trunk, and channels of the map that the CNN gets.
        depth: Blocks of the trunk.
        heads: Attention heads.
        mlp_ratio: Hidden width of the blocks' gated MLP over ``width``.
        positions: "fixed" = images of ``image_size`` only; "interpolated" = positions of the patches are resized.
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.
        **cnn: Size of the CNN, as in :class:`~imtok.decoders.cnn.CNNDecoder`.

    Raises:
        ValueError: If ``shift`` or ``patch_dim`` is out of range; in ``forward``, if the latents do not fill an image
            of that size, some were not kept, or positions are fixed to another size.

    Example:
        >>> decoder = HitaDecoder(12, num_latents=8, image_size=32, width=32, depth=1, heads=2, channels=8)
        >>> decoder(torch.randn(1, 8, 12), size=(32, 32)).shape
        torch.Size([1, 3, 32, 32])
    """

    def __init__(
        self,
        in_dim: int,
        num_latents: int,
        image_size: int,
        shift: int = 4,
        patch_dim: int | None = 8,
        width: int = 512,
        depth: int = 3,
        heads: int = 8,
        mlp_ratio: float = 1368 / 512,
        positions: Literal["fixed", "interpolated"] = "fixed",
        checkpoint: bool = False,
        **cnn: Unpack[CNNSize],
    ) -> None:
        super().__init__()
        self.cnn = CNNDecoder(width, latent_channels=None, **cnn)
        grid = grid_size((image_size, image_size), self.cnn.factor)
        self.holistic = num_latents - grid[0] * grid[1]
        if not 0 <= shift <= self.holistic:
            raise ValueError(f"shift must be in [0, {self.holistic}], the number of holistic latents, got {shift}")
        if patch_dim is not None and not 1 <= patch_dim <= in_dim:
            raise ValueError(f"patch_dim must be in [1, {in_dim}], the width of the latents, got {patch_dim}")
        self.shift = shift
        self.patch_dim = patch_dim or in_dim
        self.project_holistic = nn.Linear(in_dim, width)
        self.project_patches = nn.Linear(self.patch_dim, width)
        self.holistic_positions = nn.Parameter(torch.randn(self.holistic, width) * width**-0.5)
        self.positions = GridPositions(
            grid, width, self.cnn.factor, interpolate=positions == "interpolated", std=width**-0.5
        )
        self.norm_in = nn.LayerNorm(width)
        self.trunk = Transformer(
            width, depth, heads, BlockStyle(mlp="swiglu", mlp_ratio=mlp_ratio), checkpoint=checkpoint
        )

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return self.cnn.last_layer

    @override
    def decode(self, latents: Float[Tensor, "b n d"], size: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
        positions = self.positions(grid_size(size, self.cnn.factor))
        number = self.holistic + len(positions)
        if latents.shape[1] != number:
            raise ValueError(
                f"latents must be {number} ({self.holistic} holistic ones and {len(positions)} patches) to fill an "
                f"image of {size[0]} x {size[1]}, got {latents.shape[1]}"
            )
        holistic = self.project_holistic(latents[:, : self.holistic]) + self.holistic_positions
        patches = self.project_patches(latents[:, self.holistic :, : self.patch_dim]) + positions
        causal = visibility([number], [["causal"]]).to(latents.device)
        tokens = self.trunk(self.norm_in(torch.cat([holistic, patches], 1)), causal)
        first = self.holistic - self.shift
        return self.cnn(tokens[:, first : first + len(positions)], size)
