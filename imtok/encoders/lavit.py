"""The encoder of LaVIT (arXiv 2309.04669): it selects patches of a frozen net and merges the others into them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.encoders.base import Encoder
from imtok.encoders.pretrained_vit import PretrainedViTEncoder
from imtok.nn.initialization import start_weights
from imtok.nn.selection import TokenMerger, TokenSelector, best, choose, kept_first
from imtok.types import Condition, Latents


class Selected(NamedTuple):
    """The latents of all patches of each image, and which of them are selected.

    Attributes:
        features: The frozen net's features of the patches.
        values: Latents of the patches. Only those of selected patches are meaningful.
        keep: True for selected patches.
        share: Share of the patches that are selected, with the gradient of a soft choice.
    """

    features: Float[Tensor, "b n c"]
    values: Float[Tensor, "b n d"]
    keep: Bool[Tensor, "b n"]
    share: Float[Tensor, " b"]


class SelectingEncoder(Encoder):
    """A frozen vision transformer, a selector of patches, and a merger of the other patches into the selected ones.

    In training, patches are drawn with their probabilities (Gumbel-softmax). In evaluation, the patches with the
    highest probabilities are taken, as many as training would draw on average. An image then has the same tokens each
    time. The public code also draws in evaluation. ``length`` sets the number of patches instead.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        net: The frozen transformer. Its latents must be its features.
        depth: Blocks of the merger.
        heads: Attention heads of each block.
        mlp_ratio: Width of their hidden layers, as a multiple of the features' width.

    Raises:
        ValueError: If ``net`` maps its features to latents; in ``forward``, for a length out of range.

    Example:
        >>> net = PretrainedViTEncoder(None, 32, patch_size=8, factor=8, width=16, depth=1, heads=2)
        >>> latents = SelectingEncoder(4, net, depth=1, heads=2)(torch.rand(2, 3, 32, 32) * 2 - 1)
        >>> latents.values.shape, latents.keep.shape
        (torch.Size([2, 16, 4]), torch.Size([2, 16]))
    """

    budgeted = True

    def __init__(
        self, out_dim: int, net: PretrainedViTEncoder, depth: int = 12, heads: int = 16, mlp_ratio: float = 4.3637
    ) -> None:
        super().__init__()
        if not isinstance(net.project, nn.Identity):
            raise ValueError("net.out_dim must be null: its features are read as they are")
        self.net, self.width = net, net.net.width * max(len(net.layers), 1)
        self.selector = TokenSelector(self.width)
        self.merger = TokenMerger(self.width, depth, heads, mlp_ratio)
        self.project = nn.Sequential(nn.Linear(self.width, self.width), nn.Tanh(), nn.Linear(self.width, out_dim))
        start_weights(self.project, "normal")

    @classmethod
    def tell_parts(cls, provided: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The arguments that the builder sets for the net, so that it returns its features as they are."""
        return {"net": {**provided, "out_dim": None}}

    def selected(self, image: Float[Tensor, "b 3 h w"], length: int | None = None) -> Selected:
        """The latents, with the features and the share for the objective. ``length`` is that of ``forward``."""
        features = self.net(image).values
        chances = self.selector(features)
        if length is None:
            kept = choose(chances, self.training)
        else:
            kept = best(chances, torch.full_like(chances[:, 0, 0], length, dtype=torch.int64))
        merged = self.merger(features, kept.to(features.dtype))
        return Selected(features, self.project(merged), kept.detach() > 0.5, kept.mean(1))

    @override
    def forward(
        self, image: Float[Tensor, "b 3 h w"], length: int | None = None, condition: Condition | None = None
    ) -> Latents:
        most = self.num_latents((image.shape[-2], image.shape[-1]))
        if length is not None and not 1 <= length <= most:
            raise ValueError(f"length must lie in [1, {most}] latents, got {length}")
        found = self.selected(image, length)
        if length is None:
            return Latents(found.values, found.keep)
        return Latents(kept_first(found.values, found.keep)[:, :length])

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        return self.net.num_latents(size)
