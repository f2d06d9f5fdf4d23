"""A convolutional decoder that also reads noise, so that it can make up detail (WeTok, arXiv 2508.05599)."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.decoders.cnn import AdaptiveNorm, CNNDecoder
from imtok.nn.convolution import Attention, Layer
from imtok.nn.resampling import Upsampling


class NoiseCNNDecoder(CNNDecoder):
    """``CNNDecoder`` whose first convolution reads the latents and as many channels of Gaussian noise.

    It starts as the decoder without noise: the weights that read it are zero. Adaptive norms see the latents alone.
    Training draws noise anew for each image; evaluation always uses the same, for each image.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        channels: As of ``CNNDecoder``, like all that follow.
        multipliers: See there.
        blocks: See there.
        attention: See there.
        middle: See there.
        upsample: See there.
        adaptive_norm: See there.
        bias: See there.
        latent_channels: See there.
        image_channels: See there.
        groups: See there.

    Example:
        >>> decoder = NoiseCNNDecoder(in_dim=8, channels=32, multipliers=(1, 2), blocks=1).eval()
        >>> latents = torch.randn(1, 128, 8)
        >>> torch.equal(decoder(latents, size=(16, 32)), decoder(latents, size=(16, 32)))
        True
    """

    def __init__(
        self,
        in_dim: int,
        channels: int = 256,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4, 8),
        blocks: int = 4,
        attention: Attention = "none",
        middle: Sequence[Layer] = ("residual", "residual", "residual", "residual"),
        upsample: Upsampling = "depth_to_space",
        adaptive_norm: AdaptiveNorm = "levels",
        bias: bool = False,
        latent_channels: int | None = None,
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
            upsample,
            adaptive_norm,
            bias,
            latent_channels,
            image_channels,
            groups,
        )
        self.conv_in = NoiseConvolution(latent_channels or in_dim, channels * multipliers[-1])


class NoiseConvolution(nn.Conv2d):
    """A 3 x 3 convolution over a map and as many channels of noise.

    It also takes the weights of the convolution without noise that it starts from.

    Args:
        in_channels: Channels of the map.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(2 * in_channels, out_channels, 3, padding=1)
        self.register_load_state_dict_pre_hook(_widen)
        self.load_state_dict(nn.Conv2d(in_channels, out_channels, 3, padding=1).state_dict())

    def widened(self, name: str, weight: Tensor) -> Tensor | None:
        """A weight of the convolution without noise with zeros for the noise; None if it is none.

        Args:
            name: Of the weight, in this module.
            weight: Of another module.
        """
        if name != "weight" or weight.ndim != 4 or 2 * weight.shape[1] != self.in_channels:
            return None
        return F.pad(weight, (0, 0, 0, 0, 0, weight.shape[1]))

    @override
    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        noise = torch.randn_like(input) if self.training else steady_noise(input[0]).expand_as(input)
        return super().forward(torch.cat([input, noise], 1))


def _widen(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Give weights for the map alone zeros for the noise."""
    weight = state_dict.get(f"{prefix}weight")
    if isinstance(module, NoiseConvolution) and weight is not None:
        wide = module.widened("weight", weight)
        state_dict[f"{prefix}weight"] = weight if wide is None else wide


def steady_noise(like: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
    """Gaussian noise that depends on nothing but its position, on every device and in a compiled graph too.

    Args:
        like: What it is to be like in shape, type and device.
    """
    mixed = torch.arange(1, like.numel() + 1, device=like.device)
    for factor in (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35):  # multiply and fold, as murmur hashes do
        mixed = mixed * factor & 0xFFFFFFFF
        mixed = mixed ^ mixed >> 15
    uniform = (mixed.double() + 0.5) / 2**32
    return (torch.special.erfinv(2 * uniform - 1) * 2**0.5).to(like.dtype).reshape(like.shape)
