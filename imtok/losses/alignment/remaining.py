"""Codes that go through the layers that a frozen net has behind them (DualToken, arXiv 2503.14324)."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.losses.alignment.alignment import resized
from imtok.losses.alignment.base import AlignmentLoss
from imtok.losses.alignment.distances import Cosine, SquaredError
from imtok.losses.teachers import Teacher
from imtok.nn.attention_projection import AttentionProjection
from imtok.types import Quantized


class RemainingLayers(AlignmentLoss):
    """The codes, widened by a causal layer of attention, stand in the place of a net's tokens after one of its blocks.

    They are drawn to the frozen net's tokens there, and what the blocks behind them and the pooling make of them, to
    what the frozen net makes of the image: ``5 (mse + 1 - cos) + (mse + 1 - cos)`` with the published factors. Those
    layers begin as the frozen net's own, and learn.

    Args:
        teacher: The frozen net, whose ``layer`` says behind which block; it pools its patches by attention or by their
            mean (SigLIP).
        dim: Width of the codes.
        source: Name of a sub-module of the tokenizer that gives them, one for each of the net's patches; the frozen
            net's patches are resized to another square number of them.
        channels: First channel that is read and the one after the last; None = all.
        weight: Factor in the total.
        patch_weight: Factor of the tokens.
        summary_weight: Factor of the pooled features.

    Raises:
        ValueError: If the teacher has no such layer, or speaks of an image by its class token, or ``channels`` are not
            of the codes; in ``forward``, for a number of codes that no square map has.

    Example:
        >>> teacher = Teacher("test_vit3", weights="random", image_size=32, layer=7)
        >>> loss = RemainingLayers(teacher, dim=16, channels=[0, 8])
        >>> latents = torch.randn(2, 4, 16)
        >>> quantized = Quantized(latents, torch.zeros(2, 4, 1, dtype=torch.long))
        >>> loss(torch.zeros(2, 3, 32, 32), quantized, {"quantizer": latents}, step=0) > 0
        tensor(True)
    """

    def __init__(
        self,
        teacher: Teacher,
        dim: int,
        source: str = "quantizer",
        channels: Sequence[int] | None = None,
        weight: float = 1.0,
        patch_weight: float = 5.0,
        summary_weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        net: Any = teacher.frozen.net
        if getattr(net, "global_pool", "token") == "token":
            raise ValueError(f"teacher must pool its patches, as SigLIP does; {teacher.name} speaks by its class token")
        if teacher.layer is None or not 0 <= teacher.layer < len(getattr(net, "blocks", ())):
            raise ValueError(f"teacher.layer must be a block of a vision transformer, from 0, got {teacher.layer}")
        first, end = (0, dim) if channels is None else channels
        if not 0 <= first < end <= dim:
            raise ValueError(f"channels must be a first and a last one of {dim}, got {first} and {end}")
        self.teacher, self.source, self.needs = teacher, source, (source,)
        self.channels = slice(first, end)
        self.patch_weight, self.summary_weight = patch_weight, summary_weight
        self.widen = AttentionProjection(end - first, teacher.dim, causal=True)
        self.rest = _behind(net, teacher.layer)
        self.distances = nn.ModuleList([SquaredError(), Cosine()])

    @override
    def forward(
        self, target: Float[Tensor, "b c h w"], quantized: Quantized, taps: Mapping[str, Tensor], step: int
    ) -> Float[Tensor, ""]:
        codes = taps[self.source][..., self.channels]
        patches, summary = self._wanted(target)
        tokens = self.widen(codes)
        rest: Any = self.rest
        pooled = rest.forward_head(rest.norm(rest.blocks(tokens)), pre_logits=True)
        of_patches = self._distance(tokens, resized(patches, tokens.shape[1]))
        return self.patch_weight * of_patches + self.summary_weight * self._distance(pooled, summary)

    def _distance(self, made: Tensor, wanted: Tensor) -> Float[Tensor, ""]:
        return torch.stack([distance(made, wanted).mean() for distance in self.distances]).sum()

    @torch.no_grad()
    def _wanted(self, image: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n k"], Float[Tensor, "b k"]]:
        """The frozen net's tokens after its block, and its pooled features."""
        net: Any = self.teacher.frozen.net
        settings = {"indices": [self.teacher.layer], "output_fmt": "NLC"}
        last, (patches,) = net.forward_intermediates(self.teacher.pixels(image), **settings)
        return patches, net.forward_head(last, pre_logits=True)


def _behind(net: Any, layer: int) -> nn.Module:
    """A copy of the blocks behind one, the norm and the pooling, all of which learn."""
    kept, net.blocks = net.blocks, net.blocks[layer + 1 :]
    patches, net.patch_embed = net.patch_embed, nn.Identity()
    try:
        rest: Any = copy.deepcopy(net)
    finally:
        net.blocks, net.patch_embed = kept, patches
    rest.pos_embed = rest.cls_token = rest.reg_token = None
    rest.norm_pre, rest.head = nn.Identity(), nn.Identity()
    rest.num_prefix_tokens = 0
    return rest.requires_grad_(True).train()
