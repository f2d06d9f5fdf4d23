"""The terms of an objective that look at the reconstructed image: losses against the original, and an adversary."""

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

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
    fooling = adversary.fooling(seen)
    (guide,), (against,) = gradients(wanted, [seen]), gradients(fooling, [seen])
    numbers = {}
    shown = fooling.detach()
    if adversary.balance == "adaptive":
        ratio = balance(image, decoder.last_layer, guide, against)
        numbers = {"adversarial_raw": shown, "adversarial_balance": ratio}
        shown, against = shown * ratio, against * ratio
    product = (image * (guide + factor * against)).sum()  # its gradient is that of the losses, its value is not
    whole = wanted.detach() + factor * shown + (product - product.detach())
    return ImageTerms(whole, {**terms, "adversarial": Loss(shown, factor)}, numbers)


def _compare(image: Tensor, target: Tensor, losses: Mapping[str, nn.Module]) -> dict[str, Loss]:
    with torch.autocast(image.device.type, enabled=False):  # features are compared in float32 or better
        terms = {name: Loss(loss(image, target), cast(ImageLoss, loss).weight) for name, loss in losses.items()}
    exact_backward([value for value, _ in terms.values()], [image])
    return terms
