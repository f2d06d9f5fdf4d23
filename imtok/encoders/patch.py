"""A cheap encoder: one linear map per patch, then residual blocks at latent resolution."""

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.encoders.base import GridEncoder
from imtok.nn.convolution import ResidualBlock, activated_norm
from imtok.nn.grid import to_sequence


class PatchEncoder(GridEncoder):
    """Maps each square patch to a vector, and lets neighbouring patches talk.

    All convolutions but the first run at latent resolution, so it trains within minutes on a CPU. With ``depth=0``
    it is one linear map per patch.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        patch_size: Side of a patch, in pixels.
        width: Channels of the residual blocks.
        depth: Number of residual blocks, 0 or more.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: In ``forward`` and ``num_latents``, if the image is no multiple of ``patch_size``.

    Example:
        >>> import torch
        >>> encoder = PatchEncoder(out_dim=8, patch_size=8, width=32, depth=1)
        >>> encoder(torch.rand(1, 3, 32, 64) * 2 - 1).values.shape
        torch.Size([1, 32, 8])
    """

    def __init__(
        self, out_dim: int, patch_size: int = 8, width: int = 96, depth: int = 2, image_channels: int = 3
    ) -> None:
        super().__init__()
        self.factor = patch_size
        self.patches = nn.Conv2d(image_channels, width, patch_size, stride=patch_size)
        self.blocks = nn.Sequential(*(ResidualBlock(width, width) for _ in range(depth)))
        self.norm_out = activated_norm(width) if depth else nn.Identity()
        self.conv_out = nn.Conv2d(width, out_dim, 1)

    @override
    def encode(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        return to_sequence(self.conv_out(self.norm_out(self.blocks(self.patches(image)))))
