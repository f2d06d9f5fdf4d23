"""The decoder of ELM's binary autoencoder (arXiv 2410.16257)."""

from collections.abc import Sequence

from torch import nn

from imtok.decoders.cnn import CNNDecoder
from imtok.nn.convolution import Attention, Layer
from imtok.nn.norms import group_norm, set_groups


class ELMDecoder(CNNDecoder):
    """VQGAN's decoder behind a norm of the sum of the vectors of all bits that are 1.

    There is no activation between the last norm and the last convolution.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        channels: Channels at full resolution.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first, as in the encoder.
        blocks: Residual blocks per level.
        attention: "lowest" = at the lowest resolution attention follows every residual block; "none".
        middle: Layers at the lowest resolution, before its level.
        latent_channels: Width of the vector of a bit.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.
        groups: Number of groups in each norm of maps; None = 32, and fewer if there are fewer than 128 channels.

    Raises:
        ValueError: If an argument has no such choice; in ``forward``, if the latents do not fill an image of that
            size, or some were not kept.

    Example:
        >>> import torch
        >>> decoder = ELMDecoder(in_dim=8, channels=32, multipliers=(1, 2), blocks=1, latent_channels=16)
        >>> decoder(torch.randn(1, 128, 8), size=(16, 32)).shape
        torch.Size([1, 3, 16, 32])
    """

    def __init__(
        self,
        in_dim: int,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        attention: Attention = "lowest",
        middle: Sequence[Layer] = ("residual", "attention", "residual"),
        latent_channels: int = 256,
        image_channels: int = 3,
        groups: int | None = None,
    ) -> None:
        super().__init__(
            in_dim,
            channels,
            multipliers,
            blocks,
            attention,
            middle,
            latent_channels=latent_channels,
            image_channels=image_channels,
        )
        vectors = nn.Conv2d(in_dim, latent_channels, 1, bias=False)
        self.project = nn.Sequential(vectors, group_norm(latent_channels))
        self.norm_out = group_norm(channels * multipliers[0])
        set_groups(self, groups)
