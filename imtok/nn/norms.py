"""Norms of maps, plain and adaptive (Open-MAGVIT2, arXiv 2409.04410), by batch and by channels, and of tokens."""

from typing import Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.distributed import mean_over_ranks

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


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm of the channels at each position of a map.

    Example:
        >>> ChannelLayerNorm(2)(torch.tensor([[[[3.0]], [[5.0]]]])).flatten()
        tensor([-1.0000,  1.0000], grad_fn=<ViewBackward0>)
    """

    @override
    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class ChannelRMSNorm(nn.Module):
    """Divides each position by the root mean square of its channels; a scale and a bias per channel.

    It computes in at least float32.

    Args:
        channels: Number of channels.
        eps: Added to the mean square.

    Example:
        >>> ChannelRMSNorm(2)(torch.tensor([[[[3.0]], [[4.0]]]])).flatten()
        tensor([0.8485, 1.1314], grad_fn=<ViewBackward0>)
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    @override
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        precise = torch.promote_types(torch.promote_types(features.dtype, self.weight.dtype), torch.float32)
        exact, weight, bias = (part.to(precise) for part in (features, self.weight, self.bias))
        scale = (exact.square().mean(1, keepdim=True) + self.eps).rsqrt()
        return (exact * scale * weight[:, None, None] + bias[:, None, None]).to(features.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation of maps (arXiv 1502.03167): by the batch in training, by running averages in evaluation.

    In training each rank normalises by the mean and variance of its own micro-batch. The running averages are moved
    towards the means over ranks, only where gradients are wanted, so that all ranks hold the same. A channel whose
    mean or variance is not finite leaves its averages as they were.

    Args:
        channels: Number of channels.
        eps: Added to the variance.
        momentum: Weight of a micro-batch in the running averages.

    Example:
        >>> BatchNorm(8)(torch.randn(2, 8, 4, 4)).shape
        torch.Size([2, 8, 4, 4])
    """

    mean: Float[Tensor, " c"]
    variance: Float[Tensor, " c"]

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    @override
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if not self.training:
            return F.batch_norm(features, self.mean, self.variance, self.weight, self.bias, eps=self.eps)
        normed = F.batch_norm(features, None, None, self.weight, self.bias, training=True, eps=self.eps)
        if torch.is_grad_enabled():
            self._follow(features.detach())
        return normed

    @torch.no_grad()
    def _follow(self, features: Float[Tensor, "b c h w"]) -> None:
        variance, mean = torch.var_mean(features.to(self.mean.dtype), dim=(0, 2, 3))
        seen = mean_over_ranks(torch.stack([mean, variance]))
        averages = torch.stack([self.mean, self.variance])
        moved = torch.where(seen.isfinite().all(0), averages.lerp(seen, self.momentum), averages)
        self.mean.copy_(moved[0])
        self.variance.copy_(moved[1])
