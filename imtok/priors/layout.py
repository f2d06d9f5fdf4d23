"""What the tokens of one image are, as far as a prior has to know."""

import math
from dataclasses import dataclass

from imtok.errors import InputError
from imtok.export.store import TokenStore


@dataclass(frozen=True)
class TokenLayout:
    """Tokens per image, and their ids.

    Attributes:
        vocab_sizes: Number of ids of each slot.
        tokens: Tokens per image, the most that there are where images differ.
        variable_length: Whether an image may leave out its last tokens.
        scales: Tokens of each scale, coarsest first, of a multi-scale quantizer; () = there are no scales.

    Example:
        >>> TokenLayout((1024,), tokens=16).bits
        10.0
    """

    vocab_sizes: tuple[int, ...]
    tokens: int
    variable_length: bool = False
    scales: tuple[int, ...] = ()

    @classmethod
    def of(cls, store: TokenStore) -> "TokenLayout":
        """That of a token store.

        Raises:
            InputError: If the store holds no images.
        """
        manifest = store.manifest
        if not len(store):
            raise InputError(f"{store.folder} holds no images; export some")
        scales = tuple(side**2 for side in manifest.get("scales", ()))
        return cls(tuple(manifest["vocab_sizes"]), manifest["tokens"], bool(manifest["variable_length"]), scales)

    @property
    def slots(self) -> int:
        """Ids per token."""
        return len(self.vocab_sizes)

    @property
    def bits(self) -> float:
        """Bits of a token whose ids are all as likely."""
        return sum(math.log2(size) for size in self.vocab_sizes)
