"""Text features as tokens of a transformer, with a learned vector for what is not said."""

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from imtok.types import Condition


def check_text(context_dim: int, context_length: int, text_dim: int | None, text_length: int | None) -> None:
    """Refuse a part whose sizes of text are not those of the condition.

    Args:
        context_dim: Width of the features that the part reads.
        context_length: The most rows of them.
        text_dim: Width of those that the condition gives; None = it gives none.
        text_length: How many rows it gives; None = it gives none.

    Raises:
        ValueError: If they do not go together.
    """
    if text_dim is not None and text_dim != context_dim:
        raise ValueError(f"context_dim must be {text_dim}, the width of the condition's text, got {context_dim}")
    if text_length is not None and text_length > context_length:
        raise ValueError(
            f"context_length must be at least {text_length}, the rows of the condition's text, got {context_length}"
        )


def text_rows(
    condition: Condition | None, missing: Float[Tensor, " c"], most: int, like: Float[Tensor, "b n d"]
) -> Float[Tensor, "b l c"]:
    """The text features of some images. ``missing`` stands for a row that says nothing.

    Args:
        condition: What is known of the images; where it gives no text, all ``most`` rows are missing.
        missing: The learned vector.
        most: The most rows.
        like: Tokens of the same images.

    Raises:
        ValueError: If the text has more rows, or another width.
    """
    text = None if condition is None else condition.text
    if condition is None or text is None:
        return repeat(missing, "c -> b l c", b=like.shape[0], l=most)
    if text.shape[1] > most or text.shape[2] != len(missing):
        raise ValueError(f"text must be at most {most} rows of width {len(missing)}, got {tuple(text.shape[1:])}")
    if condition.mask is not None:
        text = torch.where(condition.mask[..., None], text.to(missing.dtype), missing)
    return text
