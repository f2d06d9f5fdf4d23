"""A tiny text encoder: each word has a learned vector, which its hash finds. It needs no vocabulary and no weights."""

import re
from collections.abc import Sequence

import torch
import xxhash
from jaxtyping import Int64
from torch import Tensor, nn
from typing_extensions import override

from imtok.conditions.base import Conditioner
from imtok.types import Condition

NOTHING = 0  # the row of a place without a word; words have the rows after it


class Words(Conditioner):
    """A vector for each of the first words of a caption, learned with the tokenizer.

    Words are runs of letters and digits, whatever their case. Two words may share a row of the table.

    Args:
        dim: Width of the vectors.
        length: The most words of a caption that are read.
        buckets: Rows of the table.
        drop: As for :class:`Conditioner`.

    Raises:
        ValueError: If a number is not positive, or ``drop`` no share.

    Example:
        >>> condition = Words(dim=8, length=4)(["A red fox.", ""], torch.tensor([-1, -1]))
        >>> condition.text.shape, condition.mask.tolist()
        (torch.Size([2, 4, 8]), [[True, True, True, False], [False, False, False, False]])
    """

    reads = ("caption",)
    gives = ("text",)

    def __init__(self, dim: int = 64, length: int = 16, buckets: int = 4096, drop: float = 0.0) -> None:
        super().__init__(drop)
        if min(dim, length, buckets) < 1:
            raise ValueError(f"dim, length and buckets must be positive, got {dim}, {length} and {buckets}")
        self.text_dim, self.text_length, self.buckets = dim, length, buckets
        self.table = nn.Embedding(buckets + 1, dim)

    @override
    def forward(self, captions: Sequence[str], labels: Int64[Tensor, " b"]) -> Condition:
        rows = torch.tensor([self._rows(caption) for caption in captions], dtype=torch.int64)
        rows = rows.reshape(len(captions), self.text_length or 0).to(labels.device)
        return Condition(text=self.table(rows), mask=rows != NOTHING)

    def _rows(self, caption: str) -> list[int]:
        rows = hashed_words(caption, self.text_length or 0, self.buckets)
        return rows + [NOTHING] * ((self.text_length or 0) - len(rows))


def hashed_words(caption: str, most: int, buckets: int) -> list[int]:
    """Numbers from 1 to ``buckets`` of the first ``most`` words of a caption."""
    words = re.findall(r"\w+", caption.casefold())[:most]
    return [1 + xxhash.xxh3_64_intdigest(word.encode("utf-8", "replace")) % buckets for word in words]
