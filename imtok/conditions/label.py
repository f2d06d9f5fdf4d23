"""The class of each image."""

from collections.abc import Sequence

from jaxtyping import Int64
from torch import Tensor
from typing_extensions import override

from imtok.conditions.base import Conditioner
from imtok.errors import InputError
from imtok.types import Condition


class Label(Conditioner):
    """Class indices as the data number them, -1 where there is none. A part that reads them embeds them itself.

    The builder tells encoder and decoder ``classes``, where they have an argument of that name.

    Args:
        classes: Number of classes.

    Raises:
        ValueError: If there is no class.
        InputError: In ``forward``, if a label is not below ``classes``.

    Example:
        >>> import torch
        >>> Label(classes=10)(["", ""], torch.tensor([7, -1])).label
        tensor([ 7, -1])
    """

    reads = ("label",)
    gives = ("label",)

    def __init__(self, classes: int) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes must be at least 1, got {classes}")
        self.classes = classes

    @override
    def forward(self, captions: Sequence[str], labels: Int64[Tensor, " b"]) -> Condition:
        largest = int(labels.max()) if len(labels) else 0
        if largest >= (self.classes or 0):
            raise InputError(f"condition.classes must be above every label, got {self.classes} and label {largest}")
        return Condition(label=labels)
