"""Residual blocks, spatial attention and stacks of them, as VQGAN has them (arXiv 2012.09841)."""

from collections.abc import Sequence
from typing import Literal, TypedDict, get_args

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.nn.norms import group_norm

Layer = Literal["residual", "attention"]
Shortcut = Literal["input", "output"]
Attention = Literal["lowest", "none"] | Sequence[int]


class CNNSize(TypedDict, total=False):
    """The size of a CNN, for signatures of nets around one that take it by ``**cnn`` and hand it on."""

    channels: int
    multipliers: Sequence[int]
    blocks: int
    groups: int | None


class ResidualBlock(nn.Module):
    """Norm, SiLU and 3 x 3 convolution, twice, added to the input.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; where they differ, a 1 x 1 convolution stands for the input.
        bias: Whether the convolutions have a bias.
        shortcut: What that 1 x 1 convolution reads: "input" (VQGAN), or "output" = what the second convolution wrote,
            which leaves no direct way for the input (MaskGIT-VQGAN, arXiv 2202.04200).

    Raises:
        ValueError: If ``shortcut`` is neither.

    Example:
        >>> import torch
        >>> ResidualBlock(32, 64)(torch.randn(1, 32, 8, 8)).shape
        torch.Size([1, 64, 8, 8])
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True, shortcut: Shortcut = "input") -> None:
        super().__init__()
        if shortcut not in get_args(Shortcut):
            raise ValueError(f"shortcut must be one of {', '.join(get_args(Shortcut))}, got {shortcut!r}")
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)
        self.norm2 = group_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=bias)
        same = in_channels == out_channels
        read = in_channels if shortcut == "input" else out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(read, out_channels, 1, bias=bias)
        self.shortcut_reads_output = shortcut == "output" and not same

    @override
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        hidden = self.conv1(F.silu(self.norm1(features)))
        written = self.conv2(F.silu(self.norm2(hidden)))
        return self.shortcut(written if self.shortcut_reads_output else features) + written


class ReLUBlock(nn.Module):
    """ReLU between two 3 x 3 convolutions and one of 1 x 1, added to the input; no norm (AiT, arXiv 2301.02229).

    Args:
        channels: Channels of input and output.

    Example:
        >>> import torch
        >>> ReLUBlock(16)(torch.randn(1, 16, 8, 8)).shape
        torch.Size([1, 16, 8, 8])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv3 = nn.Conv2d(channels, channels, 1)

    @override
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return features + self.conv3(F.relu(self.conv2(F.relu(self.conv1(features)))))


class SpatialAttention(nn.Module):
    """Every position attends to all others with a single head, added to the input.

    Args:
        channels: Channels of input and output.

    Example:
        >>> import torch
        >>> SpatialAttention(32)(torch.randn(1, 32, 8, 8)).shape
        torch.Size([1, 32, 8, 8])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)

    @override
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        normed = self.norm(features)
        query, key, value = (
            rearrange(conv(normed), "b c h w -> b 1 (h w) c") for conv in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        return features + self.project(rearrange(attended, "b 1 (h w) c -> b c h w", h=features.shape[-2]))


class ConvolutionStack(nn.Sequential):
    """Layers of one resolution, one after the other; the first residual block changes the number of channels.

    Args:
        layers: What comes after what: "residual" or "attention".
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        bias: Whether the convolutions of residual blocks have a bias.
        shortcut: Of residual blocks that change the number of channels, see there.

    Raises:
        ValueError: If a layer has another name, or no residual block comes first where channels change.

    Example:
        >>> import torch
        >>> ConvolutionStack(["residual", "attention"], 32, 64)(torch.randn(1, 32, 8, 8)).shape
        torch.Size([1, 64, 8, 8])
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        in_channels: int,
        out_channels: int,
        bias: bool = True,
        shortcut: Shortcut = "input",
    ) -> None:
        if in_channels != out_channels and (not layers or layers[0] != "residual"):
            raise ValueError(f"layers must begin with 'residual' where the channels change, got {list(layers)}")
        modules: list[nn.Module] = []
        channels = in_channels
        for layer in layers:
            if layer == "residual":
                modules.append(ResidualBlock(channels, out_channels, bias, shortcut))
                channels = out_channels
            elif layer == "attention":
                modules.append(SpatialAttention(channels))
            else:
                raise ValueError(f"layers must be 'residual' or 'attention', got {layer!r}")
        super().__init__(*modules)


def activated_norm(channels: int) -> nn.Sequential:
    """Norm and SiLU: what closes a chain of residual blocks before its last convolution."""
    return nn.Sequential(group_norm(channels), nn.SiLU())


def latent_convolution(in_channels: int, out_channels: int, kernel: int) -> nn.Conv2d:
    """The convolution between a net and the codes, which keeps height and width.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Side of its kernel, odd: 1 in VQGAN (arXiv 2012.09841), 3 in VAR (arXiv 2404.02905).

    Raises:
        ValueError: If ``kernel`` is even or below 1.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"latent_kernel must be odd, got {kernel}")
    return nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)


def level_layers(levels: int, blocks: int, attention: Attention) -> list[list[Layer]]:
    """The layers of every resolution of a pyramid, full resolution first.

    Args:
        levels: Number of resolutions, at least 1.
        blocks: Residual blocks per level, at least 1.
        attention: Where attention follows every residual block: "lowest" = at the lowest resolution; "none"; or a list
            of levels, 0 = full resolution.

    Raises:
        ValueError: If an argument is out of range.
    """
    if levels < 1 or blocks < 1:
        raise ValueError(f"levels and blocks must be at least 1, got {levels} and {blocks}")
    residual: list[Layer] = ["residual"] * blocks
    with_attention: list[Layer] = ["residual", "attention"] * blocks
    attended = attended_levels(levels, attention)
    return [with_attention if level in attended else residual for level in range(levels)]


def attended_levels(levels: int, attention: Attention) -> list[int]:
    """The levels at which attention follows every residual block, 0 = full resolution; arguments as above."""
    if attention in ("lowest", "none"):
        return [levels - 1] if attention == "lowest" else []
    found = [] if isinstance(attention, str) else sorted(attention)
    if isinstance(attention, str) or not all(0 <= level < levels for level in found) or len(set(found)) < len(found):
        raise ValueError(
            f"attention must be lowest, none or a list of levels from 0 to {levels - 1}, each once, got {attention!r}"
        )
    return found
