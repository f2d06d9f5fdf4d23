"""What the tokens of one image are, as far as a prior has to know."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from imtok.errors import InputError
from imtok.export.store import TokenStore
from imtok.types import Tokens


@dataclass(frozen=True)
class TokenLayout:
    """Tokens per image, and their ids.

    Attributes:
        vocab_sizes: Number of ids of each slot.
        tokens: Tokens per image, the most that there are where images differ.
        variable_length: Whether an image may leave out its last tokens.
        scales: Tokens of each scale, coarsest first, of a multi-scale quantizer; () = there are no scales.
        holes: Whether an image may leave out any of its tokens (KARL, arXiv 2507.07995). The decoder tells tokens apart
            by their places, so the others cannot move up: a token that is left out has an id of its own, the last one
            of the first slot.

    Example:
        >>> TokenLayout((1024,), tokens=16).bits
        10.0
    """

    vocab_sizes: tuple[int, ...]
    tokens: int
    variable_length: bool = False
    scales: tuple[int, ...] = ()
    holes: bool = False

    @classmethod
    def of(cls, *stores: TokenStore) -> "TokenLayout":
        """That of token stores of one tokenizer.

        Raises:
            InputError: If a store holds no images, or they differ in their tokens.
        """
        first = stores[0].manifest
        for store in stores:
            if not len(store):
                raise InputError(f"{store.folder} holds no images; export some")
            if any(store.manifest[name] != first[name] for name in ("vocab_sizes", "tokens")):
                raise InputError(f"{store.folder} has other tokens than {stores[0].folder}; export it again")
        scales = tuple(side**2 for side in first.get("scales", ()))
        varies = any(store.manifest["variable_length"] for store in stores)
        sizes, holes = tuple(first["vocab_sizes"]), any(map(_has_holes, stores))
        if holes:
            return cls((sizes[0] + 1, *sizes[1:]), first["tokens"], False, scales, holes=True)
        return cls(sizes, first["tokens"], varies, scales)

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "TokenLayout":
        """Build from a config, whose lists become tuples."""
        arguments: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**arguments)

    @property
    def plain(self) -> dict[str, Any]:
        """The plain values of a config."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    def filled(self, tokens: Tokens) -> Tokens:
        """Tokens of the store as the prior has them."""
        if not self.holes:
            return tokens
        if tokens.keep is None:
            return tokens
        ids = tokens.ids.masked_fill(~tokens.keep[..., None], 0)
        ids[..., 0] = ids[..., 0].masked_fill(~tokens.keep, self.vocab_sizes[0] - 1)
        return Tokens(ids)

    def emptied(self, tokens: Tokens) -> Tokens:
        """Tokens of the prior as the tokenizer has them."""
        if not self.holes:
            return tokens
        keep = tokens.ids[..., 0] != self.vocab_sizes[0] - 1
        return Tokens(tokens.ids.masked_fill(~keep[..., None], 0), keep)

    @property
    def slots(self) -> int:
        """Ids per token."""
        return len(self.vocab_sizes)

    @property
    def bits(self) -> float:
        """Bits of a token whose ids are all as likely."""
        return sum(math.log2(size) for size in self.vocab_sizes)

    @property
    def in_words(self) -> str:
        """How many tokens an image has, and how large they are."""
        slots = f" of {self.slots} slots" if self.slots > 1 else ""
        return f"{self.tokens} per image{slots}, {self.bits:.1f} bits each"


def _has_holes(store: TokenStore) -> bool:
    """Whether an image leaves out a token before one that it has, or all of them."""
    masks = [np.asarray(shard.keep) for shard in store.shards() if shard.keep is not None and shard.keep.size]
    return any(not keep[..., 0].all() or bool((keep[..., 1:] & ~keep[..., :-1]).any()) for keep in masks)
