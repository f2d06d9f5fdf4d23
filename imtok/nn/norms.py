"""Norms of maps, plain and adaptive (Open-MAGVIT2, arXiv 2409.04410), and of tokens."""

from typing import Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

TokenNorm = Literal["layer", "layer_plain", "rms", "none"]


def group_norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """Group normalisation that fits any width: 32 groups in the published nets, fewer in narrow ones.

    Groups of at least four channels keep the mean and scale of the single channels apart, also on a 1 x 1 map.

    Args:
        channels: Number of channels.
        affine: Learn a scale and a bias per channel.
    """
    most = max(1, min(32, channels // 4))
    groups = next(count for count in range(most, 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6, affine=affine)


def set_groups(net: nn.Module, groups: int | None) -> None:
    """Give every group norm inside a net this number of groups; None = they stay as they are.

    Raises:
        ValueError: If the channels of one are no multiple of ``groups``.
    """
    if groups is None:
        return
    for part in net.modules():
        if isinstance(part, nn.GroupNorm):
            if groups < 1 or part.num_channels % groups:
                raise ValueError(f"groups must divide the {part.num_channels} channels of every norm, got {groups}")
            part.num_groups = groups


class AdaptiveGroupNorm(nn.Module):
    """Normalises a map and gives it the scale and bias that the statistics of a condition map ask for.

    Since mean and deviation are taken over the whole condition, every output depends on all of it.

    Args:
        channels: Channels of the map.
        condition_channels: Channels of the condition.

    Raises:
        ValueError: In ``forward``, if the condition has fewer than two positions.

    Example:
        >>> import torch
        >>> norm = AdaptiveGroupNorm(channels=32, condition_channels=4)
        >>> norm(torch.randn(1, 32, 8, 8), torch.randn(1, 4, 2, 2)).shape
        torch.Size([1, 32, 8, 8])
    """

    def __init__(self, channels: int, condition_channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, affine=False)
        self.scale = nn.Linear(condition_channels, channels)
        self.bias = nn.Linear(condition_channels, channels)

    @override
    def forward(
        self, features: Float[Tensor, "b c h w"], condition: Float[Tensor, "b c2 h2 w2"]
    ) -> Float[Tensor, "b c h w"]:
        if condition.shape[-2] * condition.shape[-1] < 2:
            raise ValueError(f"condition must have 2 or more positions, got {tuple(condition.shape[-2:])}")
        variance, mean = torch.var_mean(condition, dim=(-2, -1))
        scale = rearrange(self.scale((variance + 1e-6).sqrt()), "b c -> b c 1 1")
        bias = rearrange(self.bias(mean), "b c -> b c 1 1")
        return scale * self.norm(features) + bias


def token_norm(kind: TokenNorm, width: int, eps: float = 1e-5) -> nn.Module:
    """A norm over the channels of each token.

    Args:
        kind: "layer" = layer norm; "layer_plain" = the same without scale and bias; "rms" = root mean square with a
            scale; "none".
        width: Number of channels.
        eps: Added to the variance.

    Raises:
        ValueError: If ``kind`` is none of these.
    """
    if kind == "layer":
        return nn.LayerNorm(width, eps=eps)
    if kind == "layer_plain":
        return nn.LayerNorm(width, eps=eps, elementwise_affine=False)
    if kind == "rms":
        return nn.RMSNorm(width, eps=eps)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"norm must be one of {', '.join(get_args(TokenNorm))}, got {kind!r}")
