"""Decoder post-training: real images from a generator's codes (RobustTok's successor, arXiv 2509.12474)."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from typing_extensions import override

from imtok.errors import InputError
from imtok.losses.adversarial import Adversary
from imtok.losses.alignment.base import AlignmentLoss
from imtok.losses.base import ImageLoss
from imtok.objectives.reconstruction import ReconstructionObjective
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer, tapped
from imtok.types import Batch, Condition, Losses, Quantized, Reconstruction


class PostTrainingObjective(ReconstructionObjective):
    """The losses of a reconstruction, for what the decoder makes of codes that did not come from the target.

    The codes are those of ``batch.source`` (``data=pairs``): ids are looked up, latents quantized, pictures encoded.
    Without a source they are the target's own, which trains the decoder alone further. Nothing but the decoder
    learns: encoder and quantizer must be frozen (``freeze: [encoder, quantizer]``), and losses of the quantizer, which
    would be constants, are left out. A regulariser, if there is one, is at work.

    Args:
        losses: As for :class:`ReconstructionObjective`.
        adversary: So is this.
        alignments: Of features of the decoder, by name; None = there are none.

    Raises:
        ValueError: If an alignment does not look at the decoder; in ``forward``, if the source does not suit the
            tokenizer.
        InputError: In ``forward``, if encoder or quantizer is not frozen.
    """

    def __init__(
        self,
        losses: Mapping[str, ImageLoss],
        adversary: Adversary | None = None,
        alignments: Mapping[str, AlignmentLoss] | None = None,
    ) -> None:
        super().__init__(losses, adversary, alignments)
        strangers = [name for name in self.taps if not name.startswith("decoder")]
        if strangers:
            raise ValueError(f"alignments must look at the decoder, since nothing else learns, got {strangers}")

    @override
    def forward(self, tokenizer: Tokenizer, batch: Batch, step: int, generator: torch.Generator) -> Losses:
        learning = [name for name in ("encoder", "quantizer") if not tokenizer.is_frozen(name)]
        if learning:
            raise InputError(
                f"objective=post_training trains the decoder alone, and {' and '.join(learning)} would learn too; "
                "give freeze=[encoder,quantizer] and init_from=RUN"
            )
        target = to_float(batch.image)
        source = target if batch.source is None else batch.source.to(target.device)
        condition = tokenizer.condition_of(batch)
        with torch.no_grad():
            quantized = replace(_codes(tokenizer, source, condition), losses={}, stats={})
        size = (target.shape[-2], target.shape[-1])
        with tapped(tokenizer, self.taps) as taps:
            quantized = tokenizer.regularized(quantized, step, generator)
            image = tokenizer.decoder(quantized.latents, size, quantized.keep, condition)
        return self.judge(tokenizer, target, Reconstruction(image, quantized, taps), step)


def _codes(tokenizer: Tokenizer, source: Tensor, condition: Condition | None) -> Quantized:
    """What the decoder sees of ids ``b t g``, latents ``b n d`` or images ``b 3 h w``."""
    if source.ndim == 4:
        image = to_float(source) if source.dtype == torch.uint8 else source
        return tokenizer.quantize(image, condition=condition)
    if source.is_floating_point():
        return tokenizer.quantizer(source)
    return Quantized(tokenizer.quantizer.decode(source).to(tokenizer.decoder.last_layer.dtype), source)
