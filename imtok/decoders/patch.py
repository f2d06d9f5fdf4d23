"""A cheap decoder: residual blocks at latent resolution, then one linear map per patch."""

from typing import cast

from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.decoders.base import Decoder
from imtok.nn.convolution import ResidualBlock, activated_norm
from imtok.nn.grid import to_map


class PatchDecoder(Decoder):
    """The mirror image of ``PatchEncoder``: lets neighbouring latents talk, and maps each to a square patch.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        patch_size: Side of a patch, in pixels.
        width: Channels of the residual blocks.
        depth: Number of residual blocks, 0 or more. With 0 it is one linear map per latent.

    Raises:
        ValueError: In ``forward``, if the latents do not fill an image of that size, or some were not kept.

    Example:
        >>> import torch
        >>> decoder = PatchDecoder(in_dim=8, patch_size=8, width=32, depth=1)
        >>> decoder(torch.randn(1, 32, 8), size=(32, 64)).shape
        torch.Size([1, 3, 32, 64])
    """

    def __init__(self, in_dim: int, patch_size: int = 8, width: int = 96, depth: int = 4) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.conv_in = nn.Conv2d(in_dim, width, 1)
        self.blocks = nn.Sequential(*(ResidualBlock(width, width) for _ in range(depth)))
        self.norm_out = activated_norm(width) if depth else nn.Identity()
        self.patches = nn.ConvTranspose2d(width, 3, patch_size, stride=patch_size)

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return cast(nn.Parameter, self.patches.weight)

    @override
    def forward(
        self,
        latents: Float[Tensor, "b n d"],
        size: tuple[int, int],
        keep: Bool[Tensor, "b n"] | None = None,
        context: Tensor | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        self.require_all(keep)
        features = self.conv_in(to_map(latents, size, self.patch_size))
        return self.patches(self.norm_out(self.blocks(features)))
