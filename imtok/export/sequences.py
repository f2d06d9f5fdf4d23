"""Ids as one row of whole numbers per image, for generators that know neither slots nor lengths; and back."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from imtok.errors import InputError
from imtok.export.store import TokenStore

WAYS = ("interleave", "combine")


@dataclass(frozen=True)
class Sequencing:
    """How tokens of several slots and of varying number become a sequence over one vocabulary.

    With ``interleave`` every slot is a token of its own, the slots of a token after each other, their ids shifted so
    that no two slots share any. With ``combine`` a token stays one number: the sum over slots of id times place, slot
    0 least significant. What an image leaves out is the padding id, the last of the vocabulary, where it would be.

    Attributes:
        vocab_sizes: Number of ids of each slot.
        tokens: Tokens per image.
        slots: "interleave" or "combine"; the same for one slot.
        variable_length: Whether images may leave tokens out.

    Example:
        >>> both = Sequencing((4, 3), tokens=2, slots="interleave", variable_length=False)
        >>> both.join(np.array([[[3, 0], [1, 2]]])), both.vocabulary
        (array([[3, 4, 1, 6]]), 7)
        >>> Sequencing((4, 3), 2, "combine", False).join(np.array([[[3, 0], [1, 2]]]))
        array([[3, 9]])
    """

    vocab_sizes: tuple[int, ...]
    tokens: int
    slots: str
    variable_length: bool

    @classmethod
    def of(cls, store: TokenStore, slots: str | None) -> "Sequencing":
        """That of a store.

        Raises:
            InputError: If there are several slots and ``slots`` does not say what to do with them.
        """
        sizes, tokens = tuple(store.manifest["vocab_sizes"]), store.manifest["tokens"]
        if slots is None and len(sizes) > 1:
            raise InputError(
                f"format.slots must be given, since a token has {len(sizes)} slots: interleave ({tokens * len(sizes)} "
                f"tokens of one vocabulary of {sum(sizes)}) or combine ({tokens} tokens of {math.prod(sizes)})"
            )
        if slots not in (None, *WAYS):
            raise InputError(f"format.slots must be interleave, combine or null, got {slots}")
        if slots == "combine" and math.prod(sizes) >= 2**63:
            raise InputError(f"format.slots=combine needs numbers beyond 64 bits for slots of {sizes}; give interleave")
        return cls(sizes, tokens, slots or "interleave", store.manifest["variable_length"])

    @property
    def about(self) -> dict[str, Any]:
        """Plain values: the arguments, and what follows from them."""
        facts = {"vocabulary": self.vocabulary, "length": self.length, "padding": self.padding}
        return {**asdict(self), "vocab_sizes": list(self.vocab_sizes), **facts}

    @property
    def codes(self) -> int:
        """Ids that stand for something to be decoded."""
        return math.prod(self.vocab_sizes) if self.slots == "combine" else sum(self.vocab_sizes)

    @property
    def padding(self) -> int | None:
        """The id of what an image leaves out; None where none leaves anything out."""
        return self.codes if self.variable_length else None

    @property
    def vocabulary(self) -> int:
        """Ids of a sequence, the padding id included."""
        return self.codes + self.variable_length

    @property
    def length(self) -> int:
        """Numbers per sequence."""
        return self.tokens * (len(self.vocab_sizes) if self.slots == "interleave" else 1)

    def join(
        self, ids: Shaped[np.ndarray, "*b t g"], keep: Bool[np.ndarray, "*b t"] | None = None
    ) -> Int64[np.ndarray, "*b length"]:
        """Ids to sequences, as long as those of an image that leaves nothing out."""
        wide = ids.astype(np.int64)
        if self.slots == "combine":
            rows = wide @ np.array(self._places, dtype=np.int64)
            return rows if keep is None else np.where(keep, rows, self.codes)
        rows = wide + np.array(self._starts, dtype=np.int64)
        if keep is not None:
            rows = np.where(keep[..., None], rows, self.codes)
        return rows.reshape(*rows.shape[:-2], -1)

    def lengths(self, keep: Bool[np.ndarray, "*b t"] | None, shape: Sequence[int]) -> Int64[np.ndarray, "*b"]:
        """Up to where each sequence must be stored: one beyond the last number that is not padding."""
        if keep is None:
            return np.full(shape, self.length, dtype=np.int64)
        last = np.where(keep.any(-1), keep.shape[-1] - keep[..., ::-1].argmax(-1), 0)
        return last * (self.length // self.tokens)

    def split(
        self, rows: Shaped[np.ndarray, "*b short"]
    ) -> tuple[Int64[np.ndarray, "*b t g"], Bool[np.ndarray, "*b t"] | None]:
        """Sequences, a generator's too, to ids and ``keep``: what ``join`` was given. Short ones are padded.

        Raises:
            ValueError: If a number is in no slot's range, or a sequence is too long.
        """
        missing = self.length - rows.shape[-1]
        if missing < 0 or (missing and self.padding is None):
            raise ValueError(f"sequences must have {self.length} tokens, got {rows.shape[-1]}")
        wide = rows.astype(np.int64)
        if missing:
            wide = np.concatenate([wide, np.full((*wide.shape[:-1], missing), self.codes)], -1)
        if self.slots == "interleave":
            grid = wide.reshape(*wide.shape[:-1], self.tokens, len(self.vocab_sizes))
            keep = (grid != self.codes).all(-1) if self.variable_length else None
            ids = grid - np.array(self._starts, dtype=np.int64)
        else:
            keep = wide != self.codes if self.variable_length else None
            ids = wide[..., None] // np.array(self._places) % np.array(self.vocab_sizes)
            if ((wide < 0) | (wide >= self.vocabulary)).any():
                raise ValueError(f"combined ids must lie in [0, {self.codes})")
        if keep is not None:
            ids = np.where(keep[..., None], ids, 0)
        if ((ids < 0) | (ids >= np.array(self.vocab_sizes))).any():
            raise ValueError(f"tokens must follow the order of slots {self.vocab_sizes}, got one of another slot")
        return ids, keep

    @property
    def _starts(self) -> list[int]:
        return [sum(self.vocab_sizes[:slot]) for slot in range(len(self.vocab_sizes))]

    @property
    def _places(self) -> list[int]:
        return [math.prod(self.vocab_sizes[:slot]) for slot in range(len(self.vocab_sizes))]
