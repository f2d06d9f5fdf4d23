"""The decoder of MaskGIT's tokenizer (arXiv 2202.04200)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.decoders.base import WholeDecoder
from imtok.nn.grid import to_map
from imtok.nn.maskgit import MaskGITDecoder
from imtok.nn.norms import set_groups
from imtok.pixels import from_range
from imtok.spaces.maskgit import PIXELS


class MaskGITVQGANDecoder(WholeDecoder):
    """The net of :mod:`imtok.nn.maskgit`, which writes pixels in [0, 1].

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        channels: Channels at full resolution.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first, as in the encoder.
        blocks: Residual blocks per level, and before the lowest.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.
        groups: Number of groups in each norm of maps; None = 32, and fewer if there are fewer than 128 channels.

    Raises:
        ValueError: In ``forward``, if the latents do not fill an image of that size, or some were not kept.

    Example:
        >>> import torch
        >>> decoder = MaskGITVQGANDecoder(in_dim=8, channels=16, multipliers=(1, 2), blocks=1)
        >>> decoder(torch.randn(1, 128, 8), size=(16, 32)).shape
        torch.Size([1, 3, 16, 32])
    """

    def __init__(
        self,
        in_dim: int,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        image_channels: int = 3,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        self.factor = 2 ** (len(multipliers) - 1)
        self.net = MaskGITDecoder(in_dim, channels, multipliers, blocks, image_channels)
        set_groups(self.net, groups)

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return self.net.last_layer

    @override
    def decode(self, latents: Float[Tensor, "b n d"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        return from_range(self.net(to_map(latents, size, self.factor)), PIXELS)
