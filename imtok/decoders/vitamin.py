"""The decoder of UniTok (arXiv 2502.20321): attention from the codes, and ViTamin (arXiv 2404.02132) the other way."""

from collections.abc import Sequence
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.decoders.base import WholeDecoder
from imtok.encoders.vitamin import STYLE
from imtok.nn.attention_projection import AttentionProjection
from imtok.nn.grid import to_map
from imtok.nn.initialization import Start, start_convolutions, start_weights
from imtok.nn.inverted_bottleneck import BottleneckLevels
from imtok.nn.norms import ChannelLayerNorm
from imtok.nn.resampling import NearestUpsample
from imtok.nn.transformer import Transformer


class ViTaminDecoder(WholeDecoder):
    """The blocks of a transformer without positions see all latents, and convolutions make an image of their map.

    The map is doubled before the levels, by each of them, and behind them.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        channels: Channels of the last level.
        multipliers: Channels of each level as a multiple of ``channels``, highest resolution first.
        convolutions: Blocks of convolutions of each level, in the same order.
        width: Width of the tokens.
        depth: Number of transformer blocks.
        heads: Attention heads of each.
        drop_path: Probability that a sample passes a half of the last block by, in training, growing from 0.
        start: How linear maps start (``imtok.nn.initialization``); the published "normal" is small for narrow nets.
        checkpoint: Compute levels and blocks again in the backward pass instead of keeping their activations.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If ``convolutions`` has no number for each level; in ``forward``, if the latents do not fill an
            image of that size, or some were not kept.

    Example:
        >>> import torch
        >>> decoder = ViTaminDecoder(8, channels=16, convolutions=(1, 1), width=32, depth=1, heads=2)
        >>> decoder(torch.randn(1, 6, 8), size=(32, 48)).shape
        torch.Size([1, 3, 32, 48])
    """

    def __init__(
        self,
        in_dim: int,
        channels: int = 160,
        multipliers: Sequence[int] = (1, 2),
        convolutions: Sequence[int] = (2, 4),
        width: int = 1024,
        depth: int = 31,
        heads: int = 16,
        drop_path: float = 0.1,
        start: Start = "normal",
        checkpoint: bool = False,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        widths = [channels * multiplier for multiplier in reversed(multipliers)]
        self.factor = 2 ** (len(multipliers) + 2)
        self.embed = AttentionProjection(in_dim, width)
        self.trunk = Transformer(width, depth, heads, STYLE, drop_path=drop_path, checkpoint=checkpoint)
        self.norm_out = nn.LayerNorm(width, eps=STYLE.eps)
        self.upsample = NearestUpsample(width, widths[0])
        self.levels = BottleneckLevels([widths[0], *widths], list(reversed(convolutions)), "double", checkpoint)
        self.head = nn.Sequential(NearestUpsample(widths[-1]), ChannelLayerNorm(widths[-1], eps=STYLE.eps), nn.GELU())
        self.conv_out = nn.Conv2d(widths[-1], image_channels, 3, padding=1)
        start_weights(self, start)
        start_convolutions(self, "half_xavier")

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return cast(nn.Parameter, self.conv_out.weight)

    @override
    def decode(self, latents: Float[Tensor, "b n d"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        to_map(latents, size, self.factor)  # refuses latents that do not fill the image
        tokens = self.norm_out(self.trunk(self.embed(latents)))
        features = self.levels(self.upsample(to_map(tokens, size, self.factor)))
        return self.conv_out(self.head(features))
