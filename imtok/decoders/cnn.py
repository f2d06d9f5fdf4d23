"""The convolutional decoder of VQGAN (arXiv 2012.09841) and its descendants LlamaGen, IBQ and Open-MAGVIT2."""

from collections.abc import Sequence
from typing import Literal, cast, get_args

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.decoders.base import WholeDecoder
from imtok.nn.convolution import Attention, ConvolutionStack, Layer, activated_norm, latent_convolution, level_layers
from imtok.nn.grid import to_map
from imtok.nn.norms import AdaptiveGroupNorm, set_groups
from imtok.nn.resampling import Upsampling, upsampler

AdaptiveNorm = Literal["levels", "none"]


class CNNDecoder(WholeDecoder):
    """Residual blocks at the resolution of the latents, at twice, four times, ..., and at last full resolution.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        channels: Channels at full resolution.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first, as in the encoder.
        blocks: Residual blocks per level.
        attention: "lowest" = at the lowest resolution attention follows every residual block; "none".
        middle: Layers at the lowest resolution, before its level.
        upsample: How the resolution is doubled (``imtok.nn.resampling``).
        adaptive_norm: "levels" = before each level the features are normalised and get the scale and bias that the
            deviation and mean of all latents ask for, which takes two or more of them; "none".
        bias: Whether the convolutions of residual blocks have a bias.
        latent_channels: Channels that a convolution makes of the latents first; None = no such convolution.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.
        groups: Number of groups in each norm of maps; None = 32, and fewer if there are fewer than 128 channels.
        latent_kernel: Side of that convolution's kernel, odd.

    Raises:
        ValueError: If an argument has no such choice; in ``forward``, if the latents do not fill an image of that
            size, or some were not kept.

    Example:
        >>> import torch
        >>> decoder = CNNDecoder(in_dim=8, channels=32, multipliers=(1, 2), blocks=1)
        >>> decoder(torch.randn(1, 128, 8), size=(16, 32)).shape
        torch.Size([1, 3, 16, 32])
    """

    def __init__(
        self,
        in_dim: int,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 3,
        attention: Attention = "lowest",
        middle: Sequence[Layer] = ("residual", "attention", "residual"),
        upsample: Upsampling = "nearest",
        adaptive_norm: AdaptiveNorm = "none",
        bias: bool = True,
        latent_channels: int | None = 256,
        image_channels: int = 3,
        groups: int | None = None,
        latent_kernel: int = 1,
    ) -> None:
        super().__init__()
        if adaptive_norm not in get_args(AdaptiveNorm):
            raise ValueError(f"adaptive_norm must be one of {', '.join(get_args(AdaptiveNorm))}, got {adaptive_norm!r}")
        layers = reversed(level_layers(len(multipliers), blocks, attention))
        self.factor = 2 ** (len(multipliers) - 1)
        widths = [channels * multiplier for multiplier in reversed(multipliers)]
        incoming = [widths[0], *widths[:-1]]
        condition = latent_channels or in_dim
        self.project = latent_convolution(in_dim, latent_channels, latent_kernel) if latent_channels else nn.Identity()
        self.conv_in = nn.Conv2d(condition, widths[0], 3, padding=1)
        self.middle = ConvolutionStack(middle, widths[0], widths[0], bias)
        self.adaptive_norms = nn.ModuleList(
            AdaptiveGroupNorm(width, condition) for width in incoming if adaptive_norm == "levels"
        )
        self.levels = nn.ModuleList(
            ConvolutionStack(level, before, after, bias)
            for level, before, after in zip(layers, incoming, widths, strict=True)
        )
        self.upsamplers = nn.ModuleList(upsampler(upsample, width) for width in widths[:-1])
        self.norm_out = activated_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], image_channels, 3, padding=1)
        set_groups(self, groups)

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return cast(nn.Parameter, self.conv_out.weight)

    @override
    def decode(self, latents: Float[Tensor, "b n d"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        condition = self.project(to_map(latents, size, self.factor))
        features = self.middle(self.conv_in(condition))
        for index, level in enumerate(self.levels):
            if index > 0:
                features = self.upsamplers[index - 1](features)
            if self.adaptive_norms:
                features = self.adaptive_norms[index](features, condition)
            features = level(features)
        return self.conv_out(self.norm_out(features))
