"""Reconstruct the image: VQ-VAE (arXiv 1711.00937), and VQGAN (arXiv 2012.09841) with an adversary."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.losses.adversarial import NAMES, Adversary
from imtok.losses.alignment.base import AlignmentLoss
from imtok.losses.base import ImageLoss
from imtok.losses.total import total
from imtok.objectives.alignments import Alignments
from imtok.objectives.base import Objective
from imtok.objectives.images import image_terms
from imtok.objectives.ramps import Ramp, ramped
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer
from imtok.types import Batch, Losses, Reconstruction, StepOutput


class ReconstructionObjective(Objective):
    """The weighted sum of image losses, quantizer losses, an adversary's and alignments.

    Args:
        losses: Image losses by the name under which they are logged. An adaptive adversary balances itself against
            their sum.
        adversary: A critic that learns to tell reconstructions from originals; None = there is none.
        alignments: Losses between the tokenizer's features and those of other nets, by name.
        ramps: Factors on the weights of the quantizer's terms and the alignments over the first steps, by name.

    Raises:
        ValueError: If there is no image loss, or two terms share a name; in ``forward``, if one has the name of a
            term of the quantizer.
        InputError: In ``forward``, if a ramp is of no term.
    """

    def __init__(
        self,
        losses: Mapping[str, ImageLoss],
        adversary: Adversary | None = None,
        alignments: Mapping[str, AlignmentLoss] | None = None,
        ramps: Mapping[str, Ramp] | None = None,
    ) -> None:
        super().__init__()
        if not losses:
            raise ValueError("losses must name at least one image loss, got none")
        twice = sorted((losses.keys() | NAMES) & (alignments or {}).keys() | losses.keys() & set(NAMES))
        if twice:
            raise ValueError(f"names of losses and alignments must differ from each other and {NAMES}, got {twice}")
        self.losses = nn.ModuleDict(losses)
        self.alignments = Alignments(alignments)
        self.critic = adversary
        self.taps = self.alignments.taps
        self.ramps = dict(ramps or {})

    @override
    def forward(self, tokenizer: Tokenizer, batch: Batch, step: int, generator: torch.Generator) -> Losses:
        target = to_float(batch.image)
        reconstruction = tokenizer(
            self.seen(target, generator),
            taps=self.taps,
            condition=tokenizer.condition_of(batch),
            step=step,
            generator=generator,
        )
        return self.judge(tokenizer, target, reconstruction, step, batch.caption)

    def seen(self, target: Float[Tensor, "b c h w"], generator: torch.Generator) -> Float[Tensor, "b c h w"]:
        """What the encoder sees of the images, drawn by the step's ``generator``: here the images themselves."""
        return target

    def judge(
        self,
        tokenizer: Tokenizer,
        target: Float[Tensor, "b c h w"],
        reconstruction: Reconstruction,
        step: int,
        captions: Sequence[str] = (),
    ) -> Losses:
        """The losses of a reconstruction, however it was made; ``captions`` are those of the images, where known."""
        image = reconstruction.image.to(target.dtype)
        losses = dict(self.losses.items())
        found = image_terms(image, target, losses, self.adversary, tokenizer.decoder, step)
        own = reconstruction.quantized.losses
        twice = sorted(own.keys() & (self.losses.keys() | self.alignments.keys()))
        if twice:  # the one would stand for the other, in the log or in the total
            raise ValueError(f"names of losses and alignments must differ from the quantizer's terms, got {twice}")
        others = own | self.alignments.terms(target, reconstruction.quantized, reconstruction.taps, step, captions)
        others = ramped(others, self.ramps, step)
        shown = StepOutput(target, image, reconstruction.quantized)
        return Losses(total(found.total, others), found.terms | others, shown, found.numbers)

    @override
    def heads(self) -> nn.Module | None:
        return self.alignments.trained()
