"""The number that a step differentiates: the sum of its terms, each times its weight."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from imtok.types import Loss, Losses


def total(*parts: Float[Tensor, ""] | Mapping[str, Loss], idle: Tensor | None = None) -> Float[Tensor, ""]:
    """The sum of scalars and of weighted terms, in this order.

    A term of weight 0 is for the log alone: nothing is differentiated for it.

    Args:
        parts: Scalars, and terms by name.
        idle: What gets a gradient of zero where nothing counts, since there has to be something to differentiate.

    Example:
        >>> terms = {"l1": Loss(torch.tensor(2.0), 0.5), "idle": Loss(torch.tensor(torch.nan), 0.0)}
        >>> total(torch.tensor(1.0), terms)
        tensor(2.)
    """
    summands: list[Tensor] = []
    for part in parts:
        if isinstance(part, Mapping):
            summands += [value * weight for value, weight in part.values() if weight]
        else:
            summands.append(part)
    if not summands and idle is not None:
        return 0 * idle.sum()
    return torch.stack(summands).sum()


def with_terms(
    found: Losses, terms: Mapping[str, Loss], numbers: Mapping[str, Tensor], idle: Tensor | None = None
) -> Losses:
    """Losses with further terms, in the total and in the log.

    Args:
        found: What there is so far.
        terms: The further terms, by other names.
        numbers: What else is logged of them.
        idle: What gets a gradient of zero where no term reaches it: ranks wait for that of every parameter.
    """
    summed = total(found.total, terms) if idle is None else total(found.total, terms, 0 * idle.sum())
    return replace(found, total=summed, terms={**found.terms, **terms}, numbers={**found.numbers, **numbers})
