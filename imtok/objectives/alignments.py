"""The terms of an objective that draw features of the tokenizer to those of other nets."""

from collections.abc import Mapping, Sequence
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from imtok.losses.alignment.base import AlignmentLoss
from imtok.types import Loss, Quantized


class Alignments(nn.ModuleDict):
    """Alignments by the names under which they are logged; with their trained heads they make a module.

    Args:
        parts: By name; None = there are none.

    Attributes:
        taps: The sub-modules of the tokenizer that they look at.
    """

    taps: tuple[str, ...]

    def __init__(self, parts: Mapping[str, AlignmentLoss] | None = None) -> None:
        super().__init__(parts)
        self.taps = tuple(dict.fromkeys(name for part in (parts or {}).values() for name in part.needs))

    def terms(
        self,
        target: Float[Tensor, "b c h w"],
        quantized: Quantized,
        taps: Mapping[str, Tensor],
        step: int,
        captions: Sequence[str] = (),
    ) -> dict[str, Loss]:
        """Each one's loss, with its weight.

        Args:
            target: The original, in ``[-1, 1]``.
            quantized: Its codes, as the decoder saw them.
            taps: What the modules named in the attribute ``taps`` gave.
            step: Optimiser steps taken so far.
            captions: Of each image, "" where there is none; () = there is none at all.

        Raises:
            ValueError: If a tapped module gave nothing in this step.
        """
        silent = [name for name in self.taps if name not in taps]
        if silent:
            raise ValueError(f"alignments must look at modules that this objective calls, got {', '.join(silent)}")
        terms = dict[str, Loss]()
        for name, part in self.items():
            part = cast(AlignmentLoss, part)
            told = {"captions": captions} if "caption" in part.reads else {}
            terms[name] = Loss(part(target, quantized, taps, step, **told), part.weight)
        return terms

    def trained(self) -> nn.Module | None:
        """Itself, if anything in it learns."""
        return self if any(part.requires_grad for part in self.parameters()) else None
