"""How well a decoder's scores tell the codes of a frozen net: shared by the first stages of TiTok, ALIT and KARL."""

from typing import cast

from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from imtok.decoders.base import ProxyDecoder
from imtok.nn.exact import exact, exact_backward, exactly
from imtok.spaces.maskgit import MaskGIT
from imtok.tokenizer import Tokenizer
from imtok.types import Loss


def code_entropy(logits: Float[Tensor, "b m v"], codes: Int64[Tensor, "b m"], space: MaskGIT) -> Float[Tensor, ""]:
    """Cross entropy of the scores, in nats per code.

    Args:
        logits: Scores of the codes at each position.
        codes: The right ones.
        space: The frozen net that they belong to.

    Raises:
        ValueError: If the scores are of other positions or another number of codes.
    """
    if logits.shape[:2] != codes.shape or logits.shape[2] != len(space.codebook):
        raise ValueError(
            f"scores must be of {codes.shape[1]} positions and {len(space.codebook)} codes, as the frozen net has "
            f"them, got {logits.shape[1]} and {logits.shape[2]}"
        )
    return F.cross_entropy(rearrange(exact(logits), "b m v -> (b m) v"), rearrange(codes, "b m -> (b m)"))


def code_terms(
    logits: Float[Tensor, "b m v"], codes: Int64[Tensor, "b m"], space: MaskGIT, weights: tuple[float, float]
) -> dict[str, Loss]:
    """Cross entropy of the scores, in nats per code, and squared error of the mean code that they expect.

    ALIT and KARL set up label smoothing of 0.1 and then use the plain cross entropy alone, as is done here.

    Args:
        logits: Scores of the codes at each position.
        codes: The right ones.
        space: The frozen net that they belong to.
        weights: Of the two terms.

    Raises:
        ValueError: If the scores are of other positions or another number of codes.
    """
    entropy = code_entropy(logits, codes, space)
    scores = exact(logits)
    table = space.codebook.to(scores.dtype)
    with exactly(scores.device):
        mixture = scores.softmax(-1) @ table
    exact_backward([mixture], [logits])
    return {"codes": Loss(entropy, weights[0]), "mixture": Loss(F.mse_loss(mixture, table[codes]), weights[1])}


def code_parts(tokenizer: Tokenizer) -> tuple[ProxyDecoder, MaskGIT]:
    """The tokenizer's decoder and frozen net.

    Raises:
        ValueError: If the decoder predicts no codes, or the frozen net has none.
    """
    decoder, space = tokenizer.decoder, tokenizer.space
    if not isinstance(decoder, ProxyDecoder) or not isinstance(space, MaskGIT):
        found = f"{type(decoder).__name__} and {type(space).__name__}"
        raise ValueError(f"decoder and space must predict and have codes for this objective, got {found}")
    return cast(ProxyDecoder, decoder), space
