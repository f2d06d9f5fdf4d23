"""The terms of an objective that look at the reconstructed image: losses against the original, and an adversary."""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.decoders.base import Decoder
from imtok.losses.adversarial import Adversary
from imtok.losses.balance import balance
from imtok.losses.base import ImageLoss
from imtok.losses.total import total
from imtok.nn.exact import exact_backward, gradients
from imtok.types import Loss


class ImageTerms(NamedTuple):
    """A total whose gradient reaches the image's graph, its terms, and what else is worth a look."""

    total: Float[Tensor, ""]
    terms: dict[str, Loss]
    numbers: dict[str, Tensor]


def image_terms(
    image: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    losses: Mapping[str, nn.Module],
    adversary: Adversary | None,
    decoder: Decoder,
    step: int,
) -> ImageTerms:
    """Compare images with their targets, and show them to the adversary once it is time.

    With an adversary all losses are differentiated with respect to the image alone, and the sum of these gradients is
    handed to the image's graph as one: the adaptive weight then takes two more products through the decoder's last
    layer, where differentiating the losses themselves would take two more passes through nets and critic.

    Args:
        image: The reconstruction, with its graph.
        target: The original.
        losses: Each an ImageLoss, by name.
        adversary: None = there is none.
        decoder: What wrote the image.
        step: Optimiser steps taken so far.
    """
    factor = adversary.factor(step) if adversary is not None else 0.0
    if adversary is None or not factor:
        terms = _compare(image, target, losses)
        return ImageTerms(total(terms, idle=image), terms, {})
    seen = image.detach().requires_grad_(True)
    terms = _compare(seen, target, losses)
    wanted = total(terms, idle=seen)
    fooling = adversary.fooling(seen, step)
    (guide,), (against,) = gradients(wanted, [seen]), gradients(fooling, [seen])
    numbers = {}
    shown = fooling.detach()
    if adversary.balance == "adaptive":
        ratio = balance(image, decoder.last_layer, guide, against)
        numbers = {"adversarial_raw": shown, "adversarial_balance": ratio}
        shown, against = shown * ratio, against * ratio
    whole = cast(Tensor, _Differentiated.apply(image, guide + factor * against, wanted.detach() + factor * shown))
    return ImageTerms(whole, {**terms, "adversarial": Loss(shown, factor)}, numbers)


class _Differentiated(torch.autograd.Function):
    """A function of an image whose value and gradient are known."""

    @staticmethod
    @override
    def forward(ctx: Any, image: Tensor, gradient: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @override
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad_outputs[0] * gradient, None, None


def _compare(image: Tensor, target: Tensor, losses: Mapping[str, nn.Module]) -> dict[str, Loss]:
    """Each loss of the images, its net in float32: in bfloat16 half of the gradient of such a net can be rounding."""
    with torch.autocast(image.device.type, enabled=False):  # a GPU may multiply in TF32, if the run has it
        terms = {name: Loss(loss(image, target), cast(ImageLoss, loss).weight) for name, loss in losses.items()}
    exact_backward([value for value, _ in terms.values()], [image], tf32=True)
    return terms
