"""The encoder of AdaTok (arXiv 2606.07185): nested latents, and a policy that chooses their number for each image."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from typing_extensions import override

from imtok.encoders.base import Encoder, encoded
from imtok.nn.budgets import BudgetPolicy
from imtok.types import Condition, Latents


class AdaTokEncoder(Encoder):
    """Any encoder whose first latents matter most, and a policy over a few budgets that reads the image.

    The budget with the highest score is taken, so codes are a function of the image. A given ``length`` replaces the
    choice of the policy. ``objective=adatok`` trains the policy.

    Args:
        net: The encoder that makes the latents; the builder sets its sizes as for any encoder.
        budgets: The numbers of latents that an image can get, in ascending order.
        policy_width: Channels of the policy's first convolution; each further convolution doubles them.
        policy_halvings: Number of convolutions of the policy, which have stride 2.

    Raises:
        ValueError: If budgets are not ascending numbers from 1; in ``forward`` and ``num_latents``, if ``net`` has
            fewer latents than the largest budget, or sets a budget itself.

    Example:
        >>> from imtok.encoders.linear import LinearEncoder
        >>> encoder = AdaTokEncoder(LinearEncoder(4, image_size=32, latents=8), budgets=[1, 2, 4, 8])
        >>> latents = encoder(torch.rand(2, 3, 32, 32) * 2 - 1)
        >>> latents.values.shape, latents.keep.sum(1)
        (torch.Size([2, 8, 4]), tensor([1, 1]))
    """

    budgets: Int64[Tensor, " k"]

    def __init__(self, net: Encoder, budgets: Sequence[int], policy_width: int = 16, policy_halvings: int = 2) -> None:
        super().__init__()
        if not budgets or list(budgets) != sorted(set(budgets)) or budgets[0] < 1:
            raise ValueError(f"budgets must be different numbers of at least 1 in ascending order, got {list(budgets)}")
        self.net = net
        self.takes, self.needs = net.takes, net.needs
        self.choices = tuple(budgets)
        self.register_buffer("budgets", torch.tensor(self.choices), persistent=False)
        self.policy = BudgetPolicy(len(budgets), policy_width, policy_halvings)

    @classmethod
    def tell_parts(cls, provided: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The arguments that the builder sets for the net: all that it knows."""
        return {"net": dict(provided)}

    @override
    def forward(
        self, image: Float[Tensor, "b c h w"], length: int | None = None, condition: Condition | None = None
    ) -> Latents:
        values = self.latents(image, condition)
        if length is not None:
            return Latents(values[:, :length])
        lengths = self.budgets[self.policy(image).argmax(-1)]
        return Latents(values, torch.arange(values.shape[1], device=values.device) < lengths[:, None])

    def latents(self, image: Float[Tensor, "b c h w"], condition: Condition | None = None) -> Float[Tensor, "b n d"]:
        """All latents, without the policy."""
        self.num_latents((image.shape[-2], image.shape[-1]))
        latents = encoded(self.net, image, None, condition)
        if latents.keep is not None or self.net.budgeted:
            raise ValueError(f"net must leave the number of latents to the policy, got a {type(self.net).__name__}")
        return latents.values

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        count = self.net.num_latents(size)
        if count < self.choices[-1]:
            raise ValueError(f"budgets must be at most the {count} latents of an image, got {self.choices[-1]}")
        return count
