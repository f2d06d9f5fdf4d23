"""Decode stored tokens to images, with all tokens of an image or with as few as a command asks for."""

from jaxtyping import Float
from torch import Tensor

from imtok.measures.inference import Size
from imtok.measures.length import decode_kept
from imtok.measures.spending import Spender, Spending
from imtok.tokenizer import Tokenizer
from imtok.types import Condition, Tokens
from imtok.whole import cut, readable_size


class Decoding:
    """Decodes stored tokens to images.

    Args:
        tokenizer: The tokenizer, on its device and in evaluation mode.
        size: Height and width of the images, in pixels.
        spending: How many tokens of an image are decoded. A target compares with the picture of all tokens, since
            there is no original.

    Raises:
        InputError: If the tokenizer cannot decode so few tokens.
    """

    def __init__(self, tokenizer: Tokenizer, size: Size, spending: Spending) -> None:
        self.tokenizer, self.size = tokenizer, size
        self.spender = Spender(tokenizer, size, spending) if spending.facts else None

    def __call__(
        self, tokens: Tokens, condition: Condition | None, varies: bool, own: Size | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Decode a batch of tokens.

        Args:
            tokens: The tokens, on the tokenizer's device.
            condition: The condition of the images.
            varies: Whether the number of tokens differs between images, since a target or a prior has set it. Each
                image is then decoded from the first tokens that it has.
            own: Height and width of a whole image (``crop=none``); None = ``size``.

        Raises:
            ValueError: If the tokenizer cannot decode them.
        """
        if self.spender is not None:
            tokens = self.spender.shorten(tokens, condition)
            varies = varies or self.spender.spending.target is not None
        if own is None:
            return self._decode(tokens, self.size, condition, varies)
        return cut(self._decode(tokens, readable_size(self.tokenizer, own), condition, varies), own)

    def _decode(self, tokens: Tokens, size: Size, condition: Condition | None, varies: bool) -> Tensor:
        return (decode_kept if varies else Tokenizer.decode)(self.tokenizer, tokens, size, condition)
