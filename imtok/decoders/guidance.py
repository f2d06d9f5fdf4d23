"""Guidance: sampling pushed away from what a decoder would draw without any tokens."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from imtok.decoders.processes import Maps
from imtok.nn.exact import exact


class Guidance(ABC):
    """Makes one prediction of two: one with the tokens, one without.

    Attributes:
        scale: Its strength; 1 = none, and no prediction without tokens is made.
    """

    scale: float

    @abstractmethod
    def combine(self, conditional: Maps, null: Maps, update: Maps | None) -> tuple[Maps, Maps]:
        """The guided prediction, and the update that the next step of the same image is given.

        Args:
            conditional: The prediction with the tokens.
            null: The prediction without them.
            update: Of the step before; None at the first one.
        """


class ClassifierFreeGuidance(Guidance):
    """``null + scale (conditional - null)`` (arXiv 2207.12598).

    Args:
        scale: At least 1 to push towards the tokens.

    Example:
        >>> import torch
        >>> ClassifierFreeGuidance(3.0).combine(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), None)[0].item()
        3.0
    """

    def __init__(self, scale: float = 3.0) -> None:
        self.scale = scale

    def combine(self, conditional: Maps, null: Maps, update: Maps | None) -> tuple[Maps, Maps]:
        """See the base class."""
        difference = conditional - null
        return null + self.scale * difference, difference


class AdaptiveProjectedGuidance(Guidance):
    """Adds what in the difference is at right angles to the prediction itself (APG, arXiv 2410.02416).

    The part along the prediction is what makes strong guidance oversaturate. The difference also runs against its own
    past (a negative momentum) and is no longer than a threshold. As in FlexTok, it works on the prediction as it is,
    where the paper takes the image that follows from it.

    Args:
        scale: At least 1 to push towards the tokens.
        momentum: Share of the running update that is added to the difference.
        parallel: Share of the part along the prediction that is kept.
        norm_threshold: The largest norm of an update over a whole map; 0 = any.

    Raises:
        ValueError: If ``norm_threshold`` is negative.

    Example:
        >>> import torch
        >>> guidance = AdaptiveProjectedGuidance(scale=3.0)
        >>> conditional = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
        >>> guidance.combine(conditional, torch.tensor([0.0, -1.0]).view(1, 2, 1, 1), None)[0].flatten().tolist()
        [1.0, 2.0]
    """

    def __init__(
        self, scale: float = 7.5, momentum: float = -0.5, parallel: float = 0.0, norm_threshold: float = 2.5
    ) -> None:
        if norm_threshold < 0:
            raise ValueError(f"norm_threshold must not be negative, got {norm_threshold}")
        self.scale = scale
        self.momentum = momentum
        self.parallel = parallel
        self.norm_threshold = norm_threshold

    def combine(self, conditional: Maps, null: Maps, update: Maps | None) -> tuple[Maps, Maps]:
        """See the base class."""
        running = conditional - null
        if update is not None:
            running = running + self.momentum * update
        # Norms and angles of thousands of channels need more than half precision.
        difference, direction = exact(running), exact(conditional)
        if self.norm_threshold:
            norm = _norm(difference)
            difference = difference * (self.norm_threshold / norm).clamp(max=1)
        direction = direction / _norm(direction)
        along = (difference * direction).sum((1, 2, 3), keepdim=True) * direction
        guided = difference - along + self.parallel * along
        return conditional + (self.scale - 1) * guided.to(conditional.dtype), running


def _norm(maps: Maps) -> Float[Tensor, "b 1 1 1"]:
    return maps.square().sum((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
