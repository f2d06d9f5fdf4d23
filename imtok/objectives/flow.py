"""Train a decoder that draws: its own loss on the tokens that the regulariser leaves (FlexTok, arXiv 2502.13967)."""

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import nn
from typing_extensions import override

from imtok.decoders.base import GenerativeDecoder
from imtok.losses.alignment.base import AlignmentLoss
from imtok.losses.total import total
from imtok.objectives.alignments import Alignments
from imtok.objectives.base import Objective
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer, tapped
from imtok.types import Batch, Losses, StepOutput


class FlowObjective(Objective):
    """Quantize, drop tokens, and ask the decoder how well it finds the way from noise to the image. No image is made.

    Layers of the decoder may be drawn to a teacher's features of the original meanwhile, as it denoises (REPA, arXiv
    2410.06940). The patches come first in its sequence.

    Args:
        alignments: Losses between the tokenizer's features and those of other nets, by name; None = there are none.

    Raises:
        ValueError: In ``forward``, if the decoder does not draw, an alignment has the name of another term, or looks
            at a module that training does not call.

    Example:
        >>> tokenizer = Tokenizer.from_config({
        ...     "encoder": {
        ...         "_target_": "imtok.encoders.registers.RegisterEncoder",
        ...         "reads": "pixels", "patch_size": 8, "latents": 4, "width": 16, "depth": 1, "heads": 2,
        ...     },
        ...     "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 5, 5, 5]},
        ...     "decoder": {
        ...         "_target_": "imtok.decoders.flow.FlowDecoder", "patch_size": 8, "width": 16, "depth": 1, "heads": 2,
        ...     },
        ...     "image_size": 32,
        ... })
        >>> image = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
        >>> batch = Batch(image, torch.tensor([-1, -1]), torch.tensor([0, 1]), ["a", "b"])
        >>> losses = FlowObjective()(tokenizer, batch, step=0, generator=torch.Generator().manual_seed(0))
        >>> list(losses.terms), losses.shown.image
        (['velocity'], None)
    """

    def __init__(self, alignments: Mapping[str, AlignmentLoss] | None = None) -> None:
        super().__init__()
        self.alignments = Alignments(alignments)

    @override
    def forward(self, tokenizer: Tokenizer, batch: Batch, step: int, generator: torch.Generator) -> Losses:
        decoder = tokenizer.decoder
        if not isinstance(decoder, GenerativeDecoder):
            raise ValueError(f"decoder must be one that draws for the objective flow, got {type(decoder).__name__}")
        image, condition = to_float(batch.image), tokenizer.condition_of(batch)
        once = nullcontext() if tokenizer.space is None else tokenizer.space.once()
        with once, tapped(tokenizer, self.alignments.taps) as taps:
            quantized = tokenizer.quantize(image, condition=condition, step=step, generator=generator)
            terms = decoder.loss(image, quantized.latents, quantized.keep, condition, generator)
        terms = terms | quantized.losses
        twice = sorted(terms.keys() & self.alignments.keys())
        if twice:
            raise ValueError(f"names of alignments must differ from those of the other terms, got {', '.join(twice)}")
        terms = terms | self.alignments.terms(image, quantized, taps, step, batch.caption)
        return Losses(total(terms), terms, StepOutput(image, None, quantized))

    @override
    def heads(self) -> nn.Module | None:
        return self.alignments.trained()
