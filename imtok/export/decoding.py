"""Images of stored tokens: of all that there are of an image, or of as few as a command says."""

from jaxtyping import Float
from torch import Tensor

from imtok.measures.inference import Size
from imtok.measures.length import decode_kept
from imtok.measures.spending import Spender, Spending
from imtok.tokenizer import Tokenizer
from imtok.types import Condition, Tokens
from imtok.whole import cut, readable_size


class Decoding:
    """Makes images of tokens that are stored.

    Args:
        tokenizer: On its device, in evaluation mode.
        size: Height and width of the images, in pixels.
        spending: How many of the tokens of an image are decoded. A target is what is to be reached against the picture
            of all tokens, since there is no original.

    Raises:
        InputError: If the tokenizer cannot spend its tokens so.
    """

    def __init__(self, tokenizer: Tokenizer, size: Size, spending: Spending) -> None:
        self.tokenizer, self.size = tokenizer, size
        self.spender = Spender(tokenizer, size, spending) if spending.facts else None

    def __call__(
        self, tokens: Tokens, condition: Condition | None, varies: bool, own: Size | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Images of a batch of tokens.

        Args:
            tokens: On the tokenizer's device.
            condition: What the tokenizer is told of the images.
            varies: Whether images have as many tokens as a target asked for, or as a prior has drawn. Each is then
                decoded as the first few tokens that it has.
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
