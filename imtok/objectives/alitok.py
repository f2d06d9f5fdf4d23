"""AliTok's first stage (arXiv 2506.05289): tokens in front of the patches' learn the first patch and the first row."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.decoders.alitok import AliTokDecoder
from imtok.losses.adversarial import Adversary
from imtok.losses.alignment.base import AlignmentLoss
from imtok.losses.base import ImageLoss
from imtok.losses.total import with_terms
from imtok.objectives.ramps import Ramp
from imtok.objectives.reconstruction import ReconstructionObjective
from imtok.tokenizer import Tokenizer
from imtok.types import Batch, Loss, Losses, Reconstruction

_PREFIX = "decoder.prefix"


class AliTokObjective(ReconstructionObjective):
    """The losses of a reconstruction, and ``prefix``: a squared error, of pixels in [0, 1], of what the prefix writes.

    The patches that the prefix writes stand for the first patch of the image and then its first row.

    Args:
        losses: As for :class:`ReconstructionObjective`.
        adversary: So is this.
        alignments: And these.
        ramps: And these.
        prefix_weight: Weight of the error of the prefix.

    Raises:
        ValueError: If the weight is negative; in ``forward``, if the decoder writes no such prefix.
    """

    def __init__(
        self,
        losses: Mapping[str, ImageLoss],
        adversary: Adversary | None = None,
        alignments: Mapping[str, AlignmentLoss] | None = None,
        ramps: Mapping[str, Ramp] | None = None,
        prefix_weight: float = 0.6640625,
    ) -> None:
        super().__init__(losses, adversary, alignments, ramps)
        if prefix_weight < 0:
            raise ValueError(f"prefix_weight must not be negative, got {prefix_weight}")
        self.prefix_weight = prefix_weight
        self.taps = (*self.taps, _PREFIX)

    @override
    def forward(self, tokenizer: Tokenizer, batch: Batch, step: int, generator: torch.Generator) -> Losses:
        decoder = tokenizer.decoder
        if not isinstance(decoder, AliTokDecoder) or decoder.prefix is None or decoder.before != 1 + decoder.columns:
            raise ValueError(
                "the decoder must write patches for a prefix of one patch and a row; give decoder=alitok_causal, and "
                "encoder.prefix = 1 + patches in a row"
            )
        if not decoder.training:
            raise ValueError(
                "the decoder must learn, since this objective is that of its patches; take it out of freeze"
            )
        return super().forward(tokenizer, batch, step, generator)

    @override
    def judge(
        self,
        tokenizer: Tokenizer,
        target: Float[Tensor, "b c h w"],
        reconstruction: Reconstruction,
        step: int,
        captions: Sequence[str] = (),
    ) -> Losses:
        found = super().judge(tokenizer, target, reconstruction, step, captions)
        written = reconstruction.taps[_PREFIX]
        side = written.shape[-2]
        wanted = torch.cat([target[..., :side, :side], target[..., :side, :]], -1)
        error = ((written.to(target.dtype) - wanted) / 2).square().mean()
        return with_terms(found, {"prefix": Loss(error, self.prefix_weight)}, {})
