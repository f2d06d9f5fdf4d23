"""The encoder of MaskGIT's tokenizer (arXiv 2202.04200), and of VQGAN+ and MaskBit (arXiv 2409.16211)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.encoders.base import GridEncoder
from imtok.nn.grid import to_sequence
from imtok.nn.maskgit import MaskGITEncoder
from imtok.nn.norms import set_groups
from imtok.nn.resampling import Downsampling
from imtok.pixels import to_range
from imtok.spaces.maskgit import PIXELS


class MaskGITVQGANEncoder(GridEncoder):
    """The net of :mod:`imtok.nn.maskgit` on pixels in [0, 1]; latents are read off its map row by row.

    The frozen net whose codes TiTok predicts (:class:`imtok.spaces.maskgit.MaskGIT`) has the same encoder.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        channels: Channels at full resolution.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first. One level more
            doubles the pixels per latent: 5 levels are 16 x 16 pixels.
        blocks: Residual blocks per level, and after the lowest.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.
        downsample: How the map is halved between levels: "average" is the mean of 2 x 2 positions (MaskGIT),
            "padded_end" a convolution of stride 2 (VQGAN+), "padded_both" one whose map is padded on all sides.
        groups: Number of groups in each norm of maps; None = 32, and fewer if there are fewer than 128 channels.

    Raises:
        ValueError: If ``downsample`` is none of these; in ``forward`` and ``num_latents``, if the image is no multiple
            of the pixels per latent.

    Example:
        >>> import torch
        >>> encoder = MaskGITVQGANEncoder(out_dim=8, channels=16, multipliers=(1, 2), blocks=1)
        >>> encoder(torch.rand(1, 3, 16, 32) * 2 - 1).values.shape
        torch.Size([1, 128, 8])
    """

    def __init__(
        self,
        out_dim: int,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        image_channels: int = 3,
        downsample: Downsampling = "average",
        groups: int | None = None,
    ) -> None:
        super().__init__()
        self.factor = 2 ** (len(multipliers) - 1)
        self.net = MaskGITEncoder(out_dim, channels, multipliers, blocks, image_channels, downsample)
        set_groups(self.net, groups)

    @override
    def encode(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        return to_sequence(self.net(to_range(image, PIXELS)))
