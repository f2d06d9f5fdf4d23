"""UniWeTok's encoder (arXiv 2602.14178): convolutions, then a transformer at the lowest resolution."""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.encoders.base import GridEncoder
from imtok.nn.convolution import ResidualBlock
from imtok.nn.grid import to_sequence
from imtok.nn.map_transformer import MapTransformer
from imtok.nn.norms import group_norm, set_groups


class UniWeTokEncoder(GridEncoder):
    """Residual blocks at full, half, quarter, ... resolution and transformer blocks at the lowest.

    As in the public net (``autoencoder_uni`` of BitDance), convolutions of stride 2 also change the number of channels,
    convolutions of residual blocks have no bias, and no activation stands between the last norm and the latents. The
    quantizer bounds these (``siglu`` of GQ).

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        channels: Channels at full resolution.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first.
        blocks: Residual blocks per level.
        attention_blocks: Transformer blocks.
        heads: Attention heads of each.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.
        groups: Number of groups in each norm of maps; None = 32, and fewer if there are fewer than 128 channels.

    Raises:
        ValueError: If ``heads`` or ``groups`` do not fit the channels; in ``forward`` and ``num_latents``, if the image
            is no multiple of the pixels per latent.

    Example:
        >>> import torch
        >>> encoder = UniWeTokEncoder(out_dim=8, channels=32, multipliers=(1, 2), blocks=1, heads=2)
        >>> encoder(torch.rand(1, 3, 16, 32) * 2 - 1).values.shape
        torch.Size([1, 128, 8])
    """

    def __init__(
        self,
        out_dim: int,
        channels: int = 256,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4, 8),
        blocks: int = 4,
        attention_blocks: int = 2,
        heads: int = 16,
        image_channels: int = 3,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        self.factor = 2 ** (len(multipliers) - 1)
        widths = [channels * multiplier for multiplier in multipliers]
        self.conv_in = nn.Conv2d(image_channels, widths[0], 3, padding=1, bias=False)
        self.levels = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width, width, bias=False) for _ in range(blocks))) for width in widths
        )
        self.downsamplers = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise(widths)
        )
        self.middle = MapTransformer(widths[-1], attention_blocks, heads, stretch="ends")
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], out_dim, 1)
        set_groups(self, groups)

    @override
    def encode(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        features = self.levels[0](self.conv_in(image))
        for halve, level in zip(self.downsamplers, self.levels[1:], strict=True):
            features = level(halve(features))
        return to_sequence(self.conv_out(self.norm_out(self.middle(features))))
