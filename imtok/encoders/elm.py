"""The encoder of ELM's binary autoencoder (arXiv 2410.16257)."""

from collections.abc import Sequence

from imtok.encoders.cnn import CNNEncoder
from imtok.nn.convolution import Attention, Layer
from imtok.nn.norms import group_norm, set_groups


class ELMEncoder(CNNEncoder):
    """VQGAN's encoder without an activation between its last norm and its last convolution.

    Each channel of the latents is the logit of a bit.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        channels: Channels at full resolution.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first.
        blocks: Residual blocks per level.
        attention: "lowest" = at the lowest resolution every residual block is followed by attention; "none".
        middle: Layers at the lowest resolution, after its level.
        latent_channels: Channels that the last convolution writes, and that a 1 x 1 convolution maps to the logits.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.
        groups: Number of groups in each norm of maps; None = 32, and fewer if there are fewer than 128 channels.

    Raises:
        ValueError: If an argument has no such choice; in ``forward`` and ``num_latents``, if the image is no multiple
            of the pixels per latent.

    Example:
        >>> import torch
        >>> encoder = ELMEncoder(out_dim=8, channels=32, multipliers=(1, 2), blocks=1, latent_channels=16)
        >>> encoder(torch.rand(1, 3, 16, 32) * 2 - 1).values.shape
        torch.Size([1, 128, 8])
    """

    def __init__(
        self,
        out_dim: int,
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
            out_dim,
            channels,
            multipliers,
            blocks,
            attention,
            middle,
            latent_channels=latent_channels,
            image_channels=image_channels,
        )
        self.norm_out = group_norm(channels * multipliers[-1])
        set_groups(self, groups)
