"""The convolutional nets of MaskGIT's VQGAN (arXiv 2202.04200) and of VQGAN+ (arXiv 2409.16211), without attention."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.nn.convolution import ConvolutionStack, Layer, activated_norm
from imtok.nn.resampling import Downsampling, downsampler, upsampler


class MaskGITEncoder(nn.Module):
    """Residual blocks without biases at full, half, ... resolution.

    Args:
        out_channels: Channels of the map that it writes.
        channels: Channels at full resolution.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first.
        blocks: Residual blocks per level, and at the lowest resolution after its level.
        image_channels: Channels of the images.
        downsample: How the map is halved between levels (:func:`imtok.nn.resampling.downsampler`).

    Example:
        >>> import torch
        >>> MaskGITEncoder(8, channels=16, multipliers=(1, 2), blocks=1)(torch.rand(1, 3, 16, 32)).shape
        torch.Size([1, 8, 8, 16])
    """

    def __init__(
        self,
        out_channels: int = 256,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        image_channels: int = 3,
        downsample: Downsampling = "average",
    ) -> None:
        super().__init__()
        widths = [channels * multiplier for multiplier in multipliers]
        layers: list[Layer] = ["residual"] * blocks
        self.conv_in = nn.Conv2d(image_channels, channels, 3, padding=1, bias=False)
        self.levels = nn.ModuleList(
            ConvolutionStack(layers, before, after, bias=False, shortcut="output")
            for before, after in pairwise([channels, *widths])
        )
        self.downsamplers = nn.ModuleList(downsampler(downsample, width) for width in widths[:-1])
        self.middle = ConvolutionStack(layers, widths[-1], widths[-1], bias=False)
        self.norm_out = activated_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 1)

    @override
    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        features = self.levels[0](self.conv_in(image))
        for halve, level in zip(self.downsamplers, self.levels[1:], strict=True):
            features = level(halve(features))
        return self.conv_out(self.norm_out(self.middle(features)))


class MaskGITDecoder(nn.Module):
    """Residual blocks without biases at the lowest resolution, twice, four times, ..., and at last full resolution.

    Args:
        in_channels: Channels of the map that it reads.
        channels: Channels at full resolution.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first, as in the encoder.
        blocks: Residual blocks per level, and at the lowest resolution before its level.
        image_channels: Channels of the images.

    Example:
        >>> import torch
        >>> MaskGITDecoder(8, channels=16, multipliers=(1, 2), blocks=1)(torch.randn(1, 8, 8, 16)).shape
        torch.Size([1, 3, 16, 32])
    """

    def __init__(
        self,
        in_channels: int = 256,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        widths = [channels * multiplier for multiplier in reversed(multipliers)]
        layers: list[Layer] = ["residual"] * blocks
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.middle = ConvolutionStack(layers, widths[0], widths[0], bias=False)
        self.levels = nn.ModuleList(
            ConvolutionStack(layers, before, after, bias=False, shortcut="output")
            for before, after in pairwise([widths[0], *widths])
        )
        self.upsamplers = nn.ModuleList(upsampler("nearest", width) for width in widths[:-1])
        self.norm_out = activated_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], image_channels, 3, padding=1)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the convolution that writes the pixels."""
        return cast(nn.Parameter, self.conv_out.weight)

    @override
    def forward(self, features: Float[Tensor, "b d h w"]) -> Float[Tensor, "b c h2 w2"]:
        features = self.levels[0](self.middle(self.conv_in(features)))
        for double, level in zip(self.upsamplers, self.levels[1:], strict=True):
            features = level(double(features))
        return self.conv_out(self.norm_out(features))
