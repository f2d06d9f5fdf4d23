"""Ids as several digits of a smaller vocabulary each: the sub-codes of ELM, the sub-tokens of MDM-Prime."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped
from typing_extensions import override

from imtok.errors import InputError
from imtok.export.store import Shard, TokenStore


@dataclass(frozen=True)
class Digits:
    """Each slot of a token as ``count`` slots: its id's digits in base b, the most significant first.

    ELM (arXiv 2410.16257) splits a code of 16 bits into 2, 3 or 4 such sub-codes, and MDM-Prime (arXiv 2505.18495)
    writes an id as digits that can be masked one by one. Digits of one slot after another are slots like any others.

    Attributes:
        count: Digits of each slot.
        bases: Of each slot.
        vocab_sizes: Number of ids of each slot, at most ``base ** count``.

    Example:
        >>> digits = Digits.of((1000,), count=3)
        >>> digits.bases, digits.split(np.array([[123], [999]]))
        ((10,), array([[1, 2, 3],
               [9, 9, 9]]))
        >>> digits.join(np.array([1, 2, 3]))
        array([123])
    """

    count: int
    bases: tuple[int, ...]
    vocab_sizes: tuple[int, ...]

    @classmethod
    def of(cls, vocab_sizes: tuple[int, ...], count: int, base: int | None = None) -> "Digits":
        """Digits of ids.

        Args:
            vocab_sizes: Number of ids of each slot.
            count: Digits of each slot, at least 2.
            base: Of all slots, at least 2; None = the least that is enough, for each slot its own.

        Raises:
            InputError: If a number is out of range, or a slot has more ids than so many digits can say.
        """
        if count < 2:
            raise InputError(f"digits must be at least 2, got {count}")
        if base is not None and base < 2:
            raise InputError(f"base must be at least 2, got {base}")
        for slot, size in enumerate(vocab_sizes):
            if base is not None and base**count < size:
                raise InputError(
                    f"digits={count} of base={base} are {base**count} numbers, fewer than {size} ids of slot {slot};"
                    f" give base={least_base(size, count)} or more, or more digits"
                )
        bases = tuple(base or least_base(size, count) for size in vocab_sizes)
        if max(bases) ** count >= 2**63:
            raise InputError(f"digits={count} of base={max(bases)} are numbers beyond 64 bits; give fewer digits")
        return cls(count, bases, vocab_sizes)

    @classmethod
    def stored(cls, about: dict[str, Any]) -> "Digits":
        """The one whose ``about`` this is."""
        return cls(about["count"], tuple(about["bases"]), tuple(about["vocab_sizes"]))

    @property
    def about(self) -> dict[str, Any]:
        """Plain values."""
        return {"count": self.count, "bases": list(self.bases), "vocab_sizes": list(self.vocab_sizes)}

    @property
    def slots(self) -> tuple[int, ...]:
        """Number of ids of each digit, as slots."""
        return tuple(base for base in self.bases for _ in range(self.count))

    def split(self, ids: Shaped[np.ndarray, "*b g"]) -> Int64[np.ndarray, "*b digits"]:
        """Ids to digits."""
        bases = np.array(self.bases, np.int64)[:, None]
        places = bases ** np.arange(self.count - 1, -1, -1)
        return (ids.astype(np.int64)[..., None] // places % bases).reshape(*ids.shape[:-1], -1)

    def join(self, digits: Shaped[np.ndarray, "*b digits"]) -> Int64[np.ndarray, "*b g"]:
        """Digits, a generator's too, to ids.

        Raises:
            ValueError: If the digits of a slot are no id of it.
        """
        places = np.array(self.bases, np.int64)[:, None] ** np.arange(self.count - 1, -1, -1)
        ids = (digits.astype(np.int64).reshape(*digits.shape[:-1], -1, self.count) * places).sum(-1)
        wrong = ids >= np.array(self.vocab_sizes)
        if wrong.any():
            raise ValueError(f"digits must make ids of slots of {list(self.vocab_sizes)}, got {int(ids[wrong][0])}")
        return ids


class DigitStore(TokenStore):
    """A store whose slots are the digits of another one's. Nothing is written.

    Args:
        store: The other one.
        digits: How its ids are split.
    """

    def __init__(self, store: TokenStore, digits: Digits) -> None:
        self.store, self.digits, self.folder = store, digits, store.folder
        own = {name: value for name, value in store.manifest.items() if name != "slot_bits"}
        self.manifest = {**own, "vocab_sizes": list(digits.slots), "quantizer": f"digits of {own.get('quantizer')}"}

    @override
    def shard(self, number: int) -> Shard:
        shard = self.store.shard(number)
        return replace(shard, ids=self.digits.split(np.asarray(shard.ids)))

    @override
    def verify(self) -> None:
        self.store.verify()


def least_base(size: int, count: int) -> int:
    """The least base in which ``count`` digits say ``size`` numbers, at least 2.

    Example:
        >>> least_base(4096, 2), least_base(4097, 2), least_base(2**18, 3), least_base(5, 4)
        (64, 65, 64, 2)
    """
    base = max(2, round(size ** (1 / count)))
    while base > 2 and (base - 1) ** count >= size:
        base -= 1
    while base**count < size:
        base += 1
    return base
