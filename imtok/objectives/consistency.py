"""Latent consistency (arXiv 2310.04378), which teaches a decoder to draw in few steps (Layton, arXiv 2503.08377)."""

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.decoders.consistency import Consistency
from imtok.decoders.flow import FlowDecoder
from imtok.decoders.processes import Predict
from imtok.losses.adversarial import NAMES, Adversary
from imtok.losses.base import ImageLoss
from imtok.losses.total import total
from imtok.nn.noise import normal_like
from imtok.objectives.base import Objective
from imtok.objectives.images import image_terms
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer
from imtok.types import Batch, Loss, Losses, Quantized, StepOutput

Way = Literal["training", "distillation"]


class ConsistencyObjective(Objective):
    """The decoder's jump from a noisy map learns to match its average's jump from a less noisy map.

    Both maps lie on one path from the data to noise, ``skip`` steps apart. A jump from the data changes nothing, so all
    jumps learn to lead to the data in the end. Image losses compare the image of a single jump from pure noise.

    Args:
        way: How the less noisy map is made. "training" = from the data and the same noise, without a teacher (arXiv
            2303.01469); "distillation" = by a deterministic step back of the decoder as it was when the run began. That
            decoder must have learnt to remove noise before (``init_from`` or ``stages``).
        skip: Number of steps between the two maps.
        target_decay: Decay of the decoder's average at each step; 0 = the decoder itself.
        huber: Width of the quadratic part of the loss ``sqrt(error^2 + huber^2) - huber``.
        weight: Weight of the consistency loss.
        losses: Image losses by name; None = no image is made.
        adversary: A critic that learns to tell these images from originals; None = no critic.

    Raises:
        ValueError: If an argument is out of range, or two terms have one name; in ``forward``, if the decoder's process
            is not :class:`~imtok.decoders.consistency.Consistency`.
    """

    def __init__(
        self,
        way: Way = "training",
        skip: int = 20,
        target_decay: float = 0.95,
        huber: float = 0.001,
        weight: float = 1.0,
        losses: Mapping[str, ImageLoss] | None = None,
        adversary: Adversary | None = None,
    ) -> None:
        super().__init__()
        if way not in get_args(Way):
            raise ValueError(f"way must be one of {', '.join(get_args(Way))}, got {way!r}")
        if skip < 1 or not 0 <= target_decay < 1 or huber <= 0 or weight < 0:
            raise ValueError(
                "skip must be at least 1, target_decay in [0, 1), huber positive and weight not negative, got "
                f"{skip}, {target_decay}, {huber} and {weight}"
            )
        if twice := sorted((losses or {}).keys() & {*NAMES, "consistency"}):
            raise ValueError(f"names of losses must differ from the other terms, got {', '.join(twice)}")
        if adversary is not None and not losses:
            raise ValueError("losses must name at least one image loss where there is an adversary, got none")
        self.way: Way = way
        self.skip, self.target_decay, self.huber, self.weight = skip, target_decay, huber, weight
        self.losses = nn.ModuleDict(losses or {})
        self.critic = adversary
        self.target: FlowDecoder | None = None
        self.teacher: FlowDecoder | None = None

    @override
    def begin(self, tokenizer: Tokenizer) -> None:
        decoder = _jumping(tokenizer)
        self.target = _copied(decoder)
        self.teacher = _copied(decoder) if self.way == "distillation" else None

    @override
    @torch.no_grad()
    def follow(self, tokenizer: Tokenizer) -> None:
        assert self.target is not None
        for average, value in zip(self.target.parameters(), tokenizer.decoder.parameters(), strict=True):
            own: Any = value
            whole: Tensor = own.full_tensor() if hasattr(own, "full_tensor") else own  # of sharded weights
            average.lerp_(whole.to(average), 1 - self.target_decay)

    @override
    def forward(self, tokenizer: Tokenizer, batch: Batch, step: int, generator: torch.Generator) -> Losses:
        if self.target is None:  # outside a run
            self.begin(tokenizer)
        decoder, image, condition = _jumping(tokenizer), to_float(batch.image), tokenizer.condition_of(batch)
        with nullcontext() if tokenizer.space is None else tokenizer.space.once():
            quantized = tokenizer.quantize(image, condition=condition, step=step, generator=generator)
            maps = decoder.maps(image)
        noise = normal_like(maps, generator)
        own = decoder.predictor(quantized.latents, quantized.keep)
        terms = {"consistency": Loss(self._consistency(decoder, own, quantized, maps, noise, generator), self.weight)}
        terms |= quantized.losses
        if not self.losses:
            return Losses(total(terms), terms, StepOutput(image, None, quantized))
        drawn = decoder.pictured(_process(decoder).sample(own, noise[None], 1)).to(image.dtype)
        found = image_terms(drawn, image, dict(self.losses.items()), self.adversary, decoder, step)
        shown = StepOutput(image, drawn, quantized)
        return Losses(total(found.total, terms), found.terms | terms, shown, found.numbers)

    def _consistency(
        self,
        decoder: FlowDecoder,
        own: Predict,
        quantized: Quantized,
        maps: Float[Tensor, "b c h w"],
        noise: Float[Tensor, "b c h w"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """The distance between jumps of the decoder and of its average."""
        process = _process(decoder)
        far = process.draw_steps(len(maps), generator).to(maps.device)
        near = (far - self.skip).clamp(min=0)
        start = process.mixed(maps, noise, far)
        with torch.no_grad():
            codes, keep = quantized.latents.detach(), quantized.keep
            end = process.mixed(maps, noise, near)
            if self.teacher is not None:
                end = process.back(self.teacher.predictor(codes, keep), start, far, near)
            goal = process.jump(cast(FlowDecoder, self.target).predictor(codes, keep), end, near)
        error = process.jump(own, start, far) - goal
        return ((error.square() + self.huber**2).sqrt() - self.huber).mean()


def _copied(decoder: FlowDecoder) -> FlowDecoder:
    """A frozen copy of a decoder. The frozen space is not copied."""
    memo = {} if decoder.space is None else {id(decoder.space): decoder.space}
    return copy.deepcopy(decoder, memo).requires_grad_(False).eval()


def _process(decoder: FlowDecoder) -> Consistency:
    return cast(Consistency, decoder.process)


def _jumping(tokenizer: Tokenizer) -> FlowDecoder:
    """The tokenizer's decoder; ValueError if it does not draw by the process of consistency."""
    decoder = tokenizer.decoder
    if not isinstance(decoder, FlowDecoder) or not isinstance(decoder.process, Consistency):
        by = f" with {type(decoder.process).__name__}" if isinstance(decoder, FlowDecoder) else ""
        raise ValueError(
            f"decoder must draw by the process of consistency for this objective, got {type(decoder).__name__}{by}; "
            "give decoder=layton"
        )
    return decoder
