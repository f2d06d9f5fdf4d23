"""How far features of a tokenizer are from those of a teacher."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.distributed import gather_rows, rank, world_size
from imtok.nn.exact import exact_backward, exactly

EPSILON = 1e-6  # a shorter vector points nowhere
SCALE_LIMIT = 100.0  # CLIP's (arXiv 2103.00020)


class Distance(nn.Module, ABC):
    """Compares features, in at least float32 whatever autocast says, gradients too.

    Attributes:
        in_batch: Whether images are compared with each other, so that each must have a single feature.
        over_places: Whether the places of an image are compared with each other, so that all of them must be there.
        same_width: Whether both sides must have one width.
    """

    in_batch: bool = False
    over_places: bool = False
    same_width: bool = True

    @abstractmethod
    def compare(self, features: Float[Tensor, "b *n k"], wanted: Float[Tensor, "b *n _"]) -> Float[Tensor, "all *n"]:
        """The distance of each pair; those of all ranks where images are compared with each other."""

    @override
    def forward(self, features: Float[Tensor, "b *n k"], wanted: Float[Tensor, "b *n _"]) -> Float[Tensor, "all *n"]:
        with exactly(features.device):
            dtype = torch.promote_types(features.dtype, torch.float32)
            distance = self.compare(features.to(dtype), wanted.to(dtype))
        exact_backward([distance], [features, wanted])
        return distance


class Cosine(Distance):
    """``1 - cos``: 0 for the same direction, 2 for opposite ones.

    Example:
        >>> Cosine()(torch.eye(2), torch.tensor([[2.0, 0.0], [0.0, -1.0]]))
        tensor([0., 2.])
    """

    @override
    def compare(self, features: Float[Tensor, "b *n k"], wanted: Float[Tensor, "b *n k"]) -> Float[Tensor, "b *n"]:
        return 1 - F.cosine_similarity(features, wanted, dim=-1, eps=EPSILON)


class SquaredError(Distance):
    """Mean squared difference over channels."""

    @override
    def compare(self, features: Float[Tensor, "b *n k"], wanted: Float[Tensor, "b *n k"]) -> Float[Tensor, "b *n"]:
        return (features - wanted).square().mean(-1)


class Contrast(Distance):
    """Compares all images of all ranks with each other.

    Every rank computes the loss of the whole global batch; its own rows alone carry gradient, as many times over as
    there are ranks, so that the mean over ranks is the gradient of one big batch. Every rank must bring the same number
    of images.

    Attributes:
        normalize: Whether directions are compared; False = vectors as they are.
    """

    in_batch = True
    normalize: bool = True

    @abstractmethod
    def pairwise(self, features: Float[Tensor, "m k"], wanted: Float[Tensor, "m k"]) -> Float[Tensor, " m"]:
        """The loss of each image, of features of all images, of unit length where directions are compared."""

    @override
    def compare(
        self, features: Float[Tensor, "b k"], wanted: Float[Tensor, "b k"], present: Bool[Tensor, " b"] | None = None
    ) -> Float[Tensor, " all"]:
        """The loss of each image of the global batch that is present, in the order of ranks.

        Args:
            features: Of each image of this rank.
            wanted: The others', of the same images.
            present: False = the image takes no part; None = all do.
        """
        if self.normalize:
            features, wanted = (F.normalize(rows, dim=-1, eps=EPSILON) for rows in (features, wanted))
        features, wanted = gather_learning_rows(features), gather_learning_rows(wanted)
        if present is not None:
            everywhere = gather_rows(present)
            features, wanted = features[everywhere], wanted[everywhere]
        return self.pairwise(features, wanted)

    @override
    def forward(
        self, features: Float[Tensor, "b k"], wanted: Float[Tensor, "b k"], present: Bool[Tensor, " b"] | None = None
    ) -> Float[Tensor, " all"]:
        with exactly(features.device):
            dtype = torch.promote_types(features.dtype, torch.float32)
            distance = self.compare(features.to(dtype), wanted.to(dtype), present)
        exact_backward([distance], [features, wanted])
        return distance


class Contrastive(Contrast):
    """Which image is it? Cross entropy of the right one among the images of all ranks (InfoNCE, arXiv 1807.03748).

    Scores are ``features . wanted / temperature``.

    Args:
        temperature: Divides the scores; at least 0.01.
        normalize: Compare directions (CLIP); False = vectors as they are.
        symmetric: Also ask which features an image of the teacher belongs to, and take the mean (CLIP).

    Raises:
        ValueError: If the temperature is below 0.01.

    Example:
        >>> Contrastive(temperature=0.05)(torch.eye(2), torch.eye(2)).max() < 1e-8
        tensor(True)
    """

    def __init__(self, temperature: float = 1.0, normalize: bool = True, symmetric: bool = False) -> None:
        super().__init__()
        if not temperature >= 1 / SCALE_LIMIT:
            raise ValueError(f"temperature must be at least {1 / SCALE_LIMIT}, got {temperature}")
        self.temperature, self.normalize, self.symmetric = temperature, normalize, symmetric

    @override
    def pairwise(self, features: Float[Tensor, "m k"], wanted: Float[Tensor, "m k"]) -> Float[Tensor, " m"]:
        """The cross entropy of each image, in nats."""
        return cross_entropies(features @ wanted.T / self.temperature, self.symmetric)


NAMED = {
    "cosine": Cosine,
    "mse": SquaredError,
    "contrastive": Contrastive,
    "symmetric_contrastive": lambda: Contrastive(symmetric=True),
}


def find_distance(name: str) -> Distance:
    """The distance of that name, with its usual settings; ValueError if there is none."""
    if name not in NAMED:
        raise ValueError(f"loss must be one of {', '.join(NAMED)} or a Distance, got {name!r}")
    return NAMED[name]()


def cross_entropies(scores: Float[Tensor, "m m"], symmetric: bool) -> Float[Tensor, " m"]:
    """The cross entropy of each row's own column, in nats; symmetric: its mean with that of the column's own row."""
    right = torch.arange(len(scores), device=scores.device)
    entropy = F.cross_entropy(scores, right, reduction="none")
    return (entropy + F.cross_entropy(scores.T, right, reduction="none")) / 2 if symmetric else entropy


def gather_learning_rows(rows: Float[Tensor, "b k"]) -> Float[Tensor, "all k"]:
    """The rows of all ranks; the own ones carry ``world_size()`` times their gradient, which DDP's mean divides out."""
    if world_size() == 1:
        return rows
    everywhere = gather_rows(rows.detach())
    own = everywhere[rank() * len(rows) : (rank() + 1) * len(rows)] + world_size() * (rows - rows.detach())
    return torch.cat([everywhere[: rank() * len(rows)], own, everywhere[(rank() + 1) * len(rows) :]])
