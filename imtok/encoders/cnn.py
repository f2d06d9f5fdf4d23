"""The convolutional encoder of VQGAN (arXiv 2012.09841) and its descendants LlamaGen, IBQ and Open-MAGVIT2."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypedDict

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.encoders.base import GridEncoder
from imtok.nn.convolution import Attention, ConvolutionStack, Layer, activated_norm, latent_convolution, level_layers
from imtok.nn.grid import to_sequence
from imtok.nn.norms import set_groups
from imtok.nn.resampling import Downsampling, downsampler


class ConvolutionSettings(TypedDict, total=False):
    """The arguments of :class:`ConvolutionTrunk` that encoders take by ``**cnn`` and hand on."""

    channels: int
    multipliers: Sequence[int]
    blocks: int
    attention: Attention
    middle: Sequence[Layer]
    downsample: Downsampling
    bias: bool
    image_channels: int


class ConvolutionTrunk(GridEncoder):
    """What convolutional encoders share: a map of the lowest resolution, after the layers at its end.

    Args:
        channels: Channels at full resolution; this and what follows as in ``CNNEncoder``.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first.
        blocks: Residual blocks per level.
        attention: Where the levels attend.
        middle: Layers at the lowest resolution, after its level.
        downsample: How the resolution is halved.
        bias: Whether the convolutions have a bias.
        image_channels: Channels of the images.
    """

    def __init__(
        self,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        attention: Attention = "lowest",
        middle: Sequence[Layer] = ("residual", "attention", "residual"),
        downsample: Downsampling = "padded_end",
        bias: bool = True,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        self.factor = 2 ** (len(multipliers) - 1)
        widths = [channels * multiplier for multiplier in multipliers]
        self.width = widths[-1]
        self.conv_in = nn.Conv2d(image_channels, channels, 3, padding=1, bias=bias)
        self.levels = nn.ModuleList(
            ConvolutionStack(layers, before, after, bias)
            for layers, (before, after) in zip(
                level_layers(len(widths), blocks, attention), pairwise([channels, *widths]), strict=True
            )
        )
        self.downsamplers = nn.ModuleList(downsampler(downsample, width) for width in widths[:-1])
        self.middle = ConvolutionStack(middle, widths[-1], widths[-1], bias)

    def features(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """The map behind the middle."""
        features = self.levels[0](self.conv_in(image))
        for halve, level in zip(self.downsamplers, self.levels[1:], strict=True):
            features = level(halve(features))
        return self.middle(features)


class CNNEncoder(ConvolutionTrunk):
    """Residual blocks at full, half, quarter, ... resolution; latents are read off the lowest, row by row.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        channels: Channels at full resolution.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first. One level more
            doubles the pixels per latent: 5 levels are 16 x 16 pixels.
        blocks: Residual blocks per level.
        attention: "lowest" = at the lowest resolution every residual block is followed by attention; "none".
        middle: Layers at the lowest resolution, after its level.
        downsample: How the resolution is halved (``imtok.nn.resampling``).
        bias: Whether the first convolution and those of the residual blocks have a bias.
        kernel_out: Side of the last convolution's kernel, odd.
        latent_channels: Channels that the last convolution writes, and that another one maps to ``out_dim``; None = the
            last convolution writes the latents itself.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.
        groups: Number of groups in each norm of maps; None = 32, and fewer if there are fewer than 128 channels.
        latent_kernel: Side of the kernel of the convolution from ``latent_channels`` to ``out_dim``, odd.

    Raises:
        ValueError: If an argument has no such choice; in ``forward`` and ``num_latents``, if the image is no multiple
            of the pixels per latent.

    Example:
        >>> import torch
        >>> encoder = CNNEncoder(out_dim=8, channels=32, multipliers=(1, 2), blocks=1)
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
        downsample: Downsampling = "padded_end",
        bias: bool = True,
        kernel_out: int = 3,
        latent_channels: int | None = 256,
        image_channels: int = 3,
        groups: int | None = None,
        latent_kernel: int = 1,
    ) -> None:
        super().__init__(channels, multipliers, blocks, attention, middle, downsample, bias, image_channels)
        if kernel_out % 2 == 0:
            raise ValueError(f"kernel_out must be odd, got {kernel_out}")
        self.norm_out = activated_norm(self.width)
        self.conv_out = nn.Conv2d(self.width, latent_channels or out_dim, kernel_out, padding=kernel_out // 2)
        self.project = latent_convolution(latent_channels, out_dim, latent_kernel) if latent_channels else nn.Identity()
        set_groups(self, groups)

    @override
    def encode(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        return to_sequence(self.project(self.conv_out(self.norm_out(self.features(image)))))
