"""The encoder of UniTok (arXiv 2502.20321): ViTamin (arXiv 2404.02132), and a layer of attention to the codes."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.encoders.base import GridEncoder
from imtok.nn.attention_projection import AttentionProjection
from imtok.nn.grid import to_sequence
from imtok.nn.initialization import Start, start_convolutions, start_weights
from imtok.nn.inverted_bottleneck import BottleneckLevels
from imtok.nn.norms import ChannelLayerNorm
from imtok.nn.transformer import BlockStyle, Transformer

STYLE = BlockStyle(eps=1e-6, mlp="norm_geglu", mlp_ratio=2.0)


class ViTaminEncoder(GridEncoder):
    """Convolutions make a small map of an image, and the blocks of a transformer without positions see all of it.

    The first convolution halves the image, each level halves it again, and so does the convolution before the blocks.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        channels: Channels at half resolution.
        multipliers: Channels of each level as a multiple of ``channels``, quarter resolution first.
        convolutions: Blocks of convolutions of each level.
        width: Width of the tokens.
        depth: Number of transformer blocks.
        heads: Attention heads of each.
        drop_path: Probability that a sample passes a half of the last block by, in training, growing from 0.
        start: How linear maps start (``imtok.nn.initialization``); the published "normal" is small for narrow nets.
        checkpoint: Compute levels and blocks again in the backward pass instead of keeping their activations.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If ``convolutions`` has no number for each level; in ``forward`` and ``num_latents``, if the image
            is no multiple of the pixels per latent.

    Example:
        >>> import torch
        >>> encoder = ViTaminEncoder(8, channels=16, convolutions=(1, 1), width=32, depth=1, heads=2)
        >>> encoder(torch.rand(1, 3, 32, 48) * 2 - 1).values.shape
        torch.Size([1, 6, 8])
    """

    def __init__(
        self,
        out_dim: int,
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
        widths = [channels, *(channels * multiplier for multiplier in multipliers)]
        self.factor = 2 ** (len(multipliers) + 2)
        self.stem = nn.Sequential(
            nn.Conv2d(image_channels, channels, 3, stride=2, padding=1),
            ChannelLayerNorm(channels, eps=STYLE.eps),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.levels = BottleneckLevels(widths, convolutions, "halve", checkpoint)
        start_convolutions(self, "fan_out")
        self.embed = nn.Sequential(
            ChannelLayerNorm(widths[-1], eps=STYLE.eps), nn.Conv2d(widths[-1], width, 3, stride=2, padding=1)
        )
        self.trunk = Transformer(width, depth, heads, STYLE, drop_path=drop_path, checkpoint=checkpoint)
        self.norm_out = nn.LayerNorm(width, eps=STYLE.eps)
        self.project = AttentionProjection(width, out_dim)
        for part in (self.trunk, self.project):
            start_weights(part, start)

    @override
    def encode(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        tokens = to_sequence(self.embed(self.levels(self.stem(image))))
        return self.project(self.norm_out(self.trunk(tokens)))
