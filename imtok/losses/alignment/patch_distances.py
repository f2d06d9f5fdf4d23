"""Distances between maps of features: a teacher's features again, or what they say of each other."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from imtok.losses.alignment.distances import EPSILON, Distance


class FeatureError(Distance):
    """Cosine distance plus smooth L1, by which a net learns to give a teacher's features (AM-RADIO, arXiv 2312.06709).

    ``cosine (1 - cos) + smooth SmoothL1``, where the latter is the mean over channels: half the square of a difference
    below ``beta``, divided by it, and else the difference less half of ``beta``.

    Args:
        cosine: Factor of the cosine distance.
        smooth: Factor of smooth L1, which also tells how long a feature is.
        beta: Where smooth L1 goes over from a square to a line.

    Raises:
        ValueError: If a factor is negative or ``beta`` is not positive.

    Example:
        >>> import torch
        >>> FeatureError()(torch.eye(2), torch.eye(2))
        tensor([0., 0.])
    """

    def __init__(self, cosine: float = 0.9, smooth: float = 0.1, beta: float = 1.0) -> None:
        super().__init__()
        if not (min(cosine, smooth) >= 0 and beta > 0):
            raise ValueError(
                f"cosine and smooth must not be negative and beta be positive, got {cosine}, {smooth}, {beta}"
            )
        self.cosine, self.smooth, self.beta = cosine, smooth, beta

    @override
    def compare(self, features: Float[Tensor, "b *n k"], wanted: Float[Tensor, "b *n k"]) -> Float[Tensor, "b *n"]:
        turned = 1 - F.cosine_similarity(features, wanted, dim=-1, eps=EPSILON)
        apart = F.smooth_l1_loss(features, wanted, reduction="none", beta=self.beta).mean(-1)
        return self.cosine * turned + self.smooth * apart


class Gram(Distance):
    """How alike the places of an image are to each other, there and in the teacher (DINOv3, arXiv 2508.10104).

    Each place has a cosine with every place of its image; the loss is the mean squared difference of these matrices.
    It does not change if all features are turned, and the two nets may differ in width.

    Args:
        negative: "cut" = a cosine below 0 counts as 0 on both sides, as DINOv3 trains; "kept".

    Raises:
        ValueError: If there is no such choice.

    Example:
        >>> import torch
        >>> turned, places = torch.linalg.qr(torch.randn(8, 8))[0], torch.randn(1, 5, 8)
        >>> Gram()(places @ turned, places).max() < 1e-10
        tensor(True)
    """

    over_places = True
    same_width = False

    def __init__(self, negative: str = "cut") -> None:
        super().__init__()
        if negative not in ("cut", "kept"):
            raise ValueError(f"negative must be cut or kept, got {negative!r}")
        self.negative = negative

    @override
    def compare(self, features: Float[Tensor, "b n k"], wanted: Float[Tensor, "b n k2"]) -> Float[Tensor, "b n"]:
        """Of each place, the mean over all places."""
        own, teacher = (self._cosines(rows) for rows in (features, wanted))
        return (own - teacher).square().mean(-1)

    def _cosines(self, rows: Float[Tensor, "b n k"]) -> Float[Tensor, "b n n"]:
        directions = F.normalize(rows, dim=-1, eps=EPSILON)
        cosines = directions @ directions.mT
        return cosines.clamp(min=0) if self.negative == "cut" else cosines
