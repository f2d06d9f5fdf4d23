"""The condition of a prior that turns the tokens of another tokenizer into its own."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Int64
from torch import Tensor
from typing_extensions import override

from imtok.conditions.base import Conditioner
from imtok.errors import InputError
from imtok.types import Condition


class OtherTokens(Conditioner):
    """Gives a prior the ids that another store has of the same images (DiGIT, arXiv 2410.12490).

    The reader of the store sets the sizes of its tokens, and passes their ids with each batch.

    Args:
        store: The token store of the other tokenizer, or a folder of samples of a prior of its tokens. The path is
            not saved with the prior.
        tokens: Number of tokens of an image.
        vocab_sizes: Number of ids of each slot of a token.
        tokenizer_sha256: Fingerprint of the other tokenizer.

    Raises:
        ValueError: If these sizes are not set.

    Example:
        >>> import torch
        >>> condition = OtherTokens(tokens=2, vocab_sizes=[16], tokenizer_sha256="...")
        >>> condition.of(torch.tensor([[[3], [5]]])).tokens.shape
        torch.Size([1, 2, 1])
    """

    reads = ("tokens",)
    gives = ("tokens",)

    def __init__(
        self,
        store: str | None = None,
        tokens: int | None = None,
        vocab_sizes: Sequence[int] | None = None,
        tokenizer_sha256: str | None = None,
    ) -> None:
        super().__init__()
        if tokens is None or not vocab_sizes:
            raise ValueError(
                "condition=tokens is for imtok prior, which reads the tokens from condition.store; a tokenizer "
                "cannot have this condition"
            )
        self.store = store
        self.tokens, self.vocab_sizes, self.tokenizer_sha256 = tokens, tuple(vocab_sizes), tokenizer_sha256

    def of(self, ids: Int64[Tensor, "b t g"] | None) -> Condition:
        """The condition of images with these ids.

        Raises:
            InputError: If there are no ids, or their number is not the one that the prior has learnt with.
        """
        if ids is None or ids.shape[1:] != (self.tokens, len(self.vocab_sizes)):
            found = "none" if ids is None else f"{ids.shape[1]} of {ids.shape[2]} slots"
            raise InputError(
                f"this prior needs {self.tokens} tokens of {len(self.vocab_sizes)} slots of another tokenizer, got "
                f"{found}; give condition.store=STORE with tokens of the tokenizer that it was trained with"
            )
        return Condition(tokens=ids)

    @override
    def forward(self, captions: Sequence[str], labels: Int64[Tensor, " b"]) -> Condition:
        return self.of(None)

    @property
    @override
    def stored(self) -> dict[str, Any]:
        return {"store": None}

    @property
    @override
    def sizes(self) -> dict[str, Any]:
        return {"other_tokens": self.tokens, "other_vocab_sizes": list(self.vocab_sizes)}
