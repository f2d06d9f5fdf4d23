"""UniWeTok's decoder (arXiv 2602.14178): latents and noise pass a transformer, then convolutions."""

from collections.abc import Sequence

from torch import nn

from imtok.decoders.noise import NoiseCNNDecoder
from imtok.nn.convolution import Layer
from imtok.nn.map_transformer import MapTransformer
from imtok.nn.norms import set_groups


class UniWeTokDecoder(NoiseCNNDecoder):
    """``NoiseCNNDecoder`` with transformer blocks between its first convolution and its residual blocks.

    As in the public net (``autoencoder_uni`` of BitDance): adaptive norms see the latents alone, and convolutions of
    residual blocks have no bias. There the noise is drawn anew for each image, here only in training.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        channels: Channels at full resolution.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first.
        blocks: Residual blocks per level, and after the transformer.
        attention_blocks: Transformer blocks.
        heads: Attention heads of each.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.
        groups: Number of groups in each norm of maps; None = 32, and fewer if there are fewer than 128 channels.

    Raises:
        ValueError: If ``heads`` or ``groups`` do not fit the channels; in ``forward``, if the latents do not fill an
            image of that size, or some were not kept.

    Example:
        >>> import torch
        >>> decoder = UniWeTokDecoder(in_dim=8, channels=32, multipliers=(1, 2), blocks=1, heads=2)
        >>> decoder(torch.randn(1, 128, 8), size=(16, 32)).shape
        torch.Size([1, 3, 16, 32])
    """

    def __init__(
        self,
        in_dim: int,
        channels: int = 256,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4, 8),
        blocks: int = 4,
        attention_blocks: int = 2,
        heads: int = 16,
        image_channels: int = 3,
        groups: int | None = None,
    ) -> None:
        middle: list[Layer] = ["residual"] * blocks
        super().__init__(in_dim, channels, multipliers, blocks, middle=middle, image_channels=image_channels)
        transformer = MapTransformer(channels * multipliers[-1], attention_blocks, heads, stretch="last")
        self.middle = nn.Sequential(transformer, self.middle)
        set_groups(self, groups)
