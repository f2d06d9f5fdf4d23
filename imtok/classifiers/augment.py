"""What changes the tokens of a training batch: the contract, and several in turn."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from typing_extensions import override

from imtok.classifiers.embedded import CodebookEmbedding, Embedded


class Augmentation(ABC):
    """Changes images of a training batch that are embedded tokens. Torch's generator draws, which each step seeds."""

    @abstractmethod
    def __call__(self, images: Embedded) -> Embedded:
        """The batch as it is learnt from; the one that is given stays as it is."""

    def meet(self, embedding: CodebookEmbedding, grid: tuple[int, int]) -> None:  # noqa: B027
        """Read the embedding and the grid of the vectors, before the first batch; ValueError if they do not fit."""


class InTurn(Augmentation):
    """Several augmentations, one after the other.

    Args:
        parts: Each by a name, in their order; None = none of this name.
    """

    def __init__(self, parts: Mapping[str, Augmentation | None]) -> None:
        self.parts = {name: part for name, part in parts.items() if part is not None}

    @override
    def __call__(self, images: Embedded) -> Embedded:
        for part in self.parts.values():
            images = part(images)
        return images

    @override
    def meet(self, embedding: CodebookEmbedding, grid: tuple[int, int]) -> None:
        for part in self.parts.values():
            part.meet(embedding, grid)
