"""A cheap decoder: residual blocks at latent resolution, a few above it, then one linear map per patch."""

from collections.abc import Iterator, Sequence
from typing import cast

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.decoders.base import WholeDecoder
from imtok.nn.convolution import ResidualBlock, activated_norm
from imtok.nn.grid import to_map


class PatchDecoder(WholeDecoder):
    """The mirror image of ``PatchEncoder``: lets neighbouring latents talk, and maps each to a square patch.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        patch_size: Side of a patch, in pixels.
        width: Channels of the residual blocks.
        depth: Number of residual blocks, 0 or more. With 0 it is one linear map per latent.
        up_channels: Channels of each resolution above that of the latents, coarse to fine. Each is twice as fine as the
            one before, and reads squares of 2 x 2 places that overlap; the last one has a residual block. Patches then
            flow into each other where they would show as a lattice. Empty = patches are written from the latents'
            resolution, side by side.
        shortcut: Add to the picture one linear map of each latent to a colour, bilinearly enlarged. The norms of the
            blocks take the level of a plain patch away, and colours are then learnt late or not at all.
        deblock: Share of the step from one patch to the next that is taken back, in [0, 1], half of it by the pixel on
            either side: a filter in the loop of training, as video codecs have it.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If ``patch_size`` cannot be halved once for each of ``up_channels``, or one of these is below 1; in
            ``forward``, if the latents do not fill an image of that size, or some were not kept.

    Example:
        >>> import torch
        >>> decoder = PatchDecoder(in_dim=8, patch_size=8, width=32, depth=1)
        >>> decoder(torch.randn(1, 32, 8), size=(32, 64)).shape
        torch.Size([1, 3, 32, 64])
        >>> PatchDecoder(in_dim=8, width=32, depth=1, up_channels=[16, 8])(torch.randn(1, 32, 8), size=(32, 64)).shape
        torch.Size([1, 3, 32, 64])
    """

    def __init__(
        self,
        in_dim: int,
        patch_size: int = 8,
        width: int = 96,
        depth: int = 4,
        up_channels: Sequence[int] = (),
        shortcut: bool = False,
        deblock: float = 0.0,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        side, rest = divmod(patch_size, 2 ** len(up_channels))
        if rest:
            raise ValueError(
                f"patch_size must be a multiple of {2 ** len(up_channels)} where up_channels has {len(up_channels)} "
                f"numbers, got {patch_size}; give up_channels fewer numbers, or none"
            )
        if min(up_channels, default=1) < 1:
            raise ValueError(f"up_channels must be at least 1 each, got {list(up_channels)}")
        if not 0 <= deblock <= 1 or (deblock and patch_size < 2):
            raise ValueError(f"deblock must be in [0, 1], and 0 for patches of one pixel, got {deblock}")
        self.patch_size, self.deblock = patch_size, deblock
        self.conv_in = nn.Conv2d(in_dim, width, 1)
        self.blocks = nn.Sequential(*(ResidualBlock(width, width) for _ in range(depth)))
        self.up = nn.Sequential(*_upsampling(width, up_channels))
        width = up_channels[-1] if up_channels else width
        self.norm_out = activated_norm(width) if depth or up_channels else nn.Identity()
        overlap = side // 2 if up_channels else 0  # pixels that a patch reaches into each of its neighbours
        self.patches = nn.ConvTranspose2d(width, image_channels, side + 2 * overlap, stride=side, padding=overlap)
        self.shortcut = nn.Conv2d(in_dim, image_channels, 1) if shortcut else None

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return cast(nn.Parameter, self.patches.weight)

    @override
    def decode(self, latents: Float[Tensor, "b n d"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        grid = to_map(latents, size, self.patch_size)  # b d h w
        features = self.up(self.blocks(self.conv_in(grid)))  # b c (2^k h) (2^k w) for k up_channels
        image = self.patches(self.norm_out(features))
        if self.shortcut is not None:
            image = image + F.interpolate(self.shortcut(grid), size, mode="bilinear")
        return self._deblocked(self._deblocked(image).mT).mT if self.deblock else image

    def _deblocked(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Smaller steps from each patch to the one on its right."""
        side = self.patch_size
        patches = rearrange(image, "b c h (n side) -> b c h n side", side=side)
        step = self.deblock / 2 * (patches[..., 1:, :1] - patches[..., :-1, -1:])  # b c h (n - 1) 1
        change = F.pad(step, (side - 1, 0, 0, 1)) - F.pad(step, (0, side - 1, 1, 0))  # b c h n side
        return rearrange(patches + change, "b c h n side -> b c h (n side)")


def _upsampling(width: int, up_channels: Sequence[int]) -> Iterator[nn.Module]:
    """Layers that double the resolution for each of the channels; a residual block after the last."""
    for channels in up_channels:
        yield activated_norm(width)
        yield nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1)
        width = channels
    if up_channels:
        yield ResidualBlock(width, width)
