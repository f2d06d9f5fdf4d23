"""Ids as one row of whole numbers per image, for generators that know neither slots nor lengths; and back."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from imtok.errors import InputError
from imtok.export.store import TokenStore

WAYS = ("interleave", "shared", "combine")


class Place(NamedTuple):
    """Where image ids lie in the vocabulary of a language model.

    Attributes:
        offset: The first number of an image's range.
        begin: The number before an image; None = there is none.
        end: The number after it; None = there is none.
    """

    offset: int = 0
    begin: int | None = None
    end: int | None = None

    def check(self) -> "Place":
        """Itself.

        Raises:
            ValueError: If a number is negative, or ``begin`` and ``end`` are the same.
        """
        for name, number in self._asdict().items():
            if number is not None and number < 0:
                raise ValueError(f"{name} must be at least 0, got {number}")
        if self.begin is not None and self.begin == self.end:
            raise ValueError(f"begin and end must be different numbers, got {self.begin} for both")
        return self


@dataclass(frozen=True)
class Sequencing:
    """How tokens of several slots and of varying number become a sequence over one vocabulary.

    With ``interleave`` every slot is a token of its own, the slots of a token after each other, their ids shifted so
    that no two slots share any. With ``shared`` they are not shifted, so that only its place says whose a number is:
    the digits of MDM-Prime (arXiv 2505.18495) have one vocabulary. With ``combine`` a token stays one number: the sum
    over slots of id times place, slot 0 least significant. What an image leaves out is the padding id, the last of the
    vocabulary, where it would be.

    In the vocabulary of a language model image ids come after those of the text: all numbers are shifted by ``offset``.
    ``begin`` and ``end`` are ids of that model around an image, outside of the range of the image's own numbers.

    Attributes:
        vocab_sizes: Number of ids of each slot.
        tokens: Tokens per image.
        slots: "interleave", "shared" or "combine"; the same for one slot.
        variable_length: Whether images may leave tokens out.
        offset: The first number of an image's range.
        begin: The number before an image; None = there is none.
        end: The number after it; None = there is none.

    Example:
        >>> both = Sequencing((4, 3), tokens=2, slots="interleave", variable_length=False)
        >>> both.join(np.array([[[3, 0], [1, 2]]])), both.vocabulary
        (array([[3, 4, 1, 6]]), 7)
        >>> Sequencing((4, 3), 2, "combine", False).join(np.array([[[3, 0], [1, 2]]]))
        array([[3, 9]])
        >>> shifted = Sequencing((4,), 2, "interleave", False, offset=1000, begin=1, end=2)
        >>> shifted.frame(shifted.join(np.array([[3], [0]]))), shifted.split(np.array([1, 1003, 1000, 2]))[0].tolist()
        (array([   1, 1003, 1000,    2]), [[3], [0]])
    """

    vocab_sizes: tuple[int, ...]
    tokens: int
    slots: str
    variable_length: bool
    offset: int = 0
    begin: int | None = None
    end: int | None = None

    @classmethod
    def of(cls, store: TokenStore, slots: str | None, place: "Place | None" = None) -> "Sequencing":
        """That of a store.

        Args:
            store: Whose ids they are.
            slots: What becomes of several slots; None = there is one.
            place: Where they lie in the vocabulary of a language model; None = at its start, with nothing around them.

        Raises:
            InputError: If there are several slots and ``slots`` does not say what to do with them, or if ``begin`` or
                ``end`` is also the number of an image's token.
        """
        sizes, tokens = tuple(store.manifest["vocab_sizes"]), store.manifest["tokens"]
        if slots is None and len(sizes) > 1:
            raise InputError(
                f"format.slots must be given, since a token has {len(sizes)} slots: interleave ({tokens * len(sizes)} "
                f"tokens of one vocabulary of {sum(sizes)}) or combine ({tokens} tokens of {math.prod(sizes)}), or "
                f"shared ({tokens * len(sizes)} tokens of {max(sizes)}, whose meaning their place decides)"
            )
        if slots not in (None, *WAYS):
            raise InputError(f"format.slots must be {', '.join(WAYS)} or null, got {slots}")
        if slots == "combine" and math.prod(sizes) >= 2**63:
            raise InputError(f"format.slots=combine needs numbers beyond 64 bits for slots of {sizes}; give interleave")
        found = cls(sizes, tokens, slots or "interleave", store.manifest["variable_length"], *(place or Place()))
        for name, number in (("begin", found.begin), ("end", found.end)):
            if number is not None and found.offset <= number < found.top:
                raise InputError(
                    f"format.{name}={number} is also the number of an image's token, since those are {found.offset} to "
                    f"{found.top - 1}; give a number outside of these, or another format.offset"
                )
        if found.size > 2**63:
            raise InputError(f"the numbers up to {found.size - 1} do not fit 64 bits; give a smaller format.offset")
        return found

    @classmethod
    def stored(cls, about: dict[str, Any]) -> "Sequencing":
        """The one whose ``about`` this is.

        Raises:
            KeyError: If it is not.
        """
        given = {field.name: about[field.name] for field in fields(cls) if field.name in about}
        return cls(**{**given, "vocab_sizes": tuple(about["vocab_sizes"])})

    @property
    def about(self) -> dict[str, Any]:
        """Plain values: the arguments, and what follows from them."""
        facts = {"vocabulary": self.vocabulary, "length": self.length, "padding": self.padding}
        values = {**asdict(self), "vocab_sizes": list(self.vocab_sizes)}
        for name in ("offset", "begin", "end") if self.place == Place() else ():
            del values[name]
        return {**values, **facts}

    @property
    def words(self) -> str:
        """What numbers a sequence has, for the terminal and for cards."""
        special = {"padding": self.padding, "begin": self.begin, "end": self.end}
        named = "".join(f", {name} {number}" for name, number in special.items() if number is not None)
        return f"{self.length} per image, tokens from {self.offset} to {self.offset + self.codes - 1}{named}"

    @property
    def place(self) -> "Place":
        """Where the numbers lie in a vocabulary."""
        return Place(self.offset, self.begin, self.end)

    @property
    def codes(self) -> int:
        """Ids that stand for something to be decoded."""
        count = {"interleave": sum, "shared": max, "combine": math.prod}[self.slots]
        return count(self.vocab_sizes)

    @property
    def padding(self) -> int | None:
        """The id of what an image leaves out; None where none leaves anything out."""
        return self.offset + self.codes if self.variable_length else None

    @property
    def vocabulary(self) -> int:
        """How many ids an image's numbers can be, the padding id included."""
        return self.codes + self.variable_length

    @property
    def top(self) -> int:
        """One beyond the largest number of an image's token."""
        return self.offset + self.vocabulary

    @property
    def size(self) -> int:
        """Ids that a model must have at least: one beyond the largest number of a sequence."""
        return max(self.top, *(number + 1 for number in (self.begin, self.end) if number is not None), 0)

    @property
    def length(self) -> int:
        """Numbers per sequence."""
        return self.tokens * (1 if self.slots == "combine" else len(self.vocab_sizes))

    def join(
        self, ids: Shaped[np.ndarray, "*b t g"], keep: Bool[np.ndarray, "*b t"] | None = None
    ) -> Int64[np.ndarray, "*b length"]:
        """Ids to sequences, as long as those of an image that leaves nothing out."""
        wide = ids.astype(np.int64)
        if self.slots == "combine":
            rows = wide @ np.array(self._places, dtype=np.int64)
            return self.offset + (rows if keep is None else np.where(keep, rows, self.codes))
        rows = wide + np.array(self._starts, dtype=np.int64)
        if keep is not None:
            rows = np.where(keep[..., None], rows, self.codes)
        return self.offset + rows.reshape(*rows.shape[:-2], -1)

    def frame(self, row: Int64[np.ndarray, " short"]) -> Int64[np.ndarray, " framed"]:
        """A sequence between ``begin`` and ``end``, where there are such."""
        begin, end = (np.array([] if number is None else [number], np.int64) for number in (self.begin, self.end))
        return np.concatenate([begin, row, end])

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

        ``begin`` and ``end`` may be around them or not. Where images leave tokens out, what follows ``end`` is padding.

        Raises:
            ValueError: If a number is in no slot's range, or a sequence is too long.
        """
        wide = self._unframed(rows.astype(np.int64)) - self.offset
        missing = self.length - wide.shape[-1]
        if missing < 0 or (missing and self.padding is None):
            raise ValueError(f"sequences must have {self.length} tokens, got {wide.shape[-1]}")
        if missing:
            wide = np.concatenate([wide, np.full((*wide.shape[:-1], missing), self.codes)], -1)
        if self.slots != "combine":
            grid = wide.reshape(*wide.shape[:-1], self.tokens, len(self.vocab_sizes))
            keep = (grid != self.codes).all(-1) if self.variable_length else None
            ids = grid - np.array(self._starts, dtype=np.int64)
        else:
            keep = wide != self.codes if self.variable_length else None
            ids = wide[..., None] // np.array(self._places) % np.array(self.vocab_sizes)
            if ((wide < 0) | (wide >= self.vocabulary)).any():
                raise ValueError(f"combined ids must lie in [{self.offset}, {self.offset + self.codes})")
        if keep is not None:
            ids = np.where(keep[..., None], ids, 0)
        if ((ids < 0) | (ids >= np.array(self.vocab_sizes))).any():
            raise ValueError(f"tokens must follow the order of slots {self.vocab_sizes}, got one of another slot")
        return ids, keep

    def _unframed(self, rows: Int64[np.ndarray, "*b framed"]) -> Int64[np.ndarray, "*b short"]:
        """Without ``begin`` and ``end``, where they are."""
        if self.begin is not None and rows.shape[-1] and (rows[..., 0] == self.begin).all():
            rows = rows[..., 1:]
        if self.end is None or not rows.shape[-1]:
            return rows
        if self.padding is None:
            return rows[..., :-1] if (rows[..., -1] == self.end).all() else rows
        rows = np.where(np.logical_or.accumulate(rows == self.end, -1), self.padding, rows)
        beyond = rows[..., self.length :]
        return rows[..., : self.length] if (beyond == self.padding).all() else rows

    @property
    def _starts(self) -> list[int]:
        return [sum(self.vocab_sizes[:slot]) * (self.slots != "shared") for slot in range(len(self.vocab_sizes))]

    @property
    def _places(self) -> list[int]:
        return [math.prod(self.vocab_sizes[:slot]) for slot in range(len(self.vocab_sizes))]
