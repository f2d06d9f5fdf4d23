"""Reconstruct whole images of which some squares are hidden: the mask augmentation of AiT (arXiv 2301.02229)."""

import math
from collections.abc import Mapping

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.losses.adversarial import Adversary
from imtok.losses.alignment.base import AlignmentLoss
from imtok.losses.base import ImageLoss
from imtok.objectives.ramps import Ramp
from imtok.objectives.reconstruction import ReconstructionObjective

UNKNOWN = -1.0  # level 0: no depth is known there, or no object is


class MaskedReconstruction(ReconstructionObjective):
    """The losses of a reconstruction of whole images, of which the encoder sees some squares at level 0.

    Depth maps have holes where nothing could be measured; a tokenizer that has learnt to fill squares in gives them
    codes of whole maps. Evaluation and export hide nothing.

    Args:
        losses: As for :class:`ReconstructionObjective`.
        adversary: So is this.
        alignments: So are these; their nets see whole images.
        ramps: So are these.
        share: Of the squares of each image that are hidden, rounded up to a whole number, in [0, 1).
        patch: Side of a square, in pixels.

    Raises:
        ValueError: If ``share`` or ``patch`` is out of range; in ``forward``, if the images are no multiple of
            ``patch``.
    """

    def __init__(
        self,
        losses: Mapping[str, ImageLoss],
        adversary: Adversary | None = None,
        alignments: Mapping[str, AlignmentLoss] | None = None,
        ramps: Mapping[str, Ramp] | None = None,
        share: float = 0.5,
        patch: int = 16,
    ) -> None:
        super().__init__(losses, adversary, alignments, ramps)
        if not 0 <= share < 1 or patch < 1:
            raise ValueError(f"share must lie in [0, 1) and patch be at least 1, got {share} and {patch}")
        self.share, self.patch = share, patch

    @override
    def seen(self, target: Float[Tensor, "b c h w"], generator: torch.Generator) -> Float[Tensor, "b c h w"]:
        images, _, height, width = target.shape
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"patch must divide the side of the images, {max(height, width)}, got {self.patch}; give "
                "objective.patch or image_size another value"
            )
        rows, columns = height // self.patch, width // self.patch
        draws = torch.rand(images, rows * columns, generator=generator)  # on the CPU: nothing waits
        hidden = draws.argsort(1).argsort(1) < math.ceil(self.share * rows * columns)  # so many of each image
        squares = rearrange(hidden.to(target.device), "b (h w) -> b 1 h w", h=rows)
        return target.masked_fill(repeat(squares, "b 1 h w -> b 1 (h p) (w q)", p=self.patch, q=self.patch), UNKNOWN)
