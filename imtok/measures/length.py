"""How many tokens an image needs: the least prefix that decodes well enough (One-D-Piece, arXiv 2501.10064)."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from imtok.errors import InputError
from imtok.measures.inference import Size, evaluating
from imtok.measures.mean import ImageMean
from imtok.measures.psnr import PSNR
from imtok.pixels import to_levels
from imtok.tokenizer import Tokenizer
from imtok.types import Condition, Tokens


class Lengths(NamedTuple):
    """The least number of tokens for each image of a batch, and what they reach."""

    lengths: Int64[Tensor, " b"]
    values: Float64[Tensor, " b"]


def possible_lengths(tokenizer: Tokenizer, size: Size, wanted: Sequence[int] | None = None) -> list[int]:
    """Numbers of tokens that an image can have, in ascending order, all tokens among them.

    Encoders with a budget take some numbers only: ALIT's are multiples of what a rollout makes. Each is tried.

    Args:
        tokenizer: In evaluation mode. One of fixed length has one number.
        size: Height and width of the images, in pixels.
        wanted: Some numbers, of which those beyond all tokens do not count; None = the powers of two that can be.

    Raises:
        InputError: If the encoder refuses a number that was wanted.
    """
    most = tokenizer.num_tokens(size)
    if not tokenizer.decoder.flexible:
        return [most]
    parameter = tokenizer.decoder.last_layer
    blank = torch.zeros(1, tokenizer.channels, *size, dtype=parameter.dtype, device=parameter.device)
    found: list[int] = []
    for length in wanted or [2**power for power in range(most.bit_length())]:
        if 1 <= length < most:
            try:
                tokenizer.encode(blank, length, tokenizer.condition_for(1))
                found.append(length)
            except ValueError as error:
                if wanted:
                    raise InputError(f"lengths: {error}; give other lengths") from None
    return sorted({*found, most})


def search_length(
    tokenizer: Tokenizer,
    image: Float[Tensor, "b c h w"],
    target: float,
    metric: ImageMean | None = None,
    lengths: Sequence[int] | None = None,
    encode: Literal["once", "each"] = "once",
    condition: Condition | None = None,
) -> Lengths:
    """The least number of tokens, for each image, whose reconstruction reaches ``target``.

    Lengths are tried from the shortest on, so the answer is exact even where more tokens make an image worse, and only
    images that have not reached the target go on to the next. An image is measured alone: the answer does not depend on
    the batch.

    Args:
        tokenizer: Of variable length; left in the modes (training or evaluation) that it came in.
        image: In ``[-1, 1]``, on the tokenizer's device.
        target: What the metric is to reach: at least so many dB of PSNR, at most so much LPIPS.
        metric: Of uint8 images, such as ``LPIPS()``; None = PSNR.
        lengths: Numbers of tokens to try; None = all of them. Powers of two are a coarse answer at little cost.
        encode: "once" = all tokens once, then their prefixes; "each" = for each length anew, for encoders that make
            another code of another budget (ALIT, KARL).
        condition: What the tokenizer is told of each image besides its pixels.

    Returns:
        Lengths, and the metric's values there. An image that no length serves has the last one and its value.

    Raises:
        ValueError: If the tokenizer is of fixed length, or a length is out of range.
    """
    metric = metric or PSNR()
    most = tokenizer.num_tokens((image.shape[-2], image.shape[-1]))
    if not tokenizer.decoder.flexible:
        raise ValueError(f"the tokenizer must be of variable length to search one, got one that always takes {most}")
    tried = sorted(set(range(1, most + 1) if lengths is None else lengths))
    if not tried or tried[0] < 1 or tried[-1] > most:
        raise ValueError(f"lengths must be some of 1 to {most} tokens, got {lengths}")
    found = torch.full((len(image),), tried[-1], device=image.device)
    values = torch.full((len(image),), float("nan"), device=image.device, dtype=torch.float64)
    open_rows = torch.arange(len(image), device=image.device)
    pixels = to_levels(image)
    with evaluating(tokenizer):
        whole = tokenizer.encode(image, condition=condition) if encode == "once" else None
        for length in tried:
            if not len(open_rows):
                break
            told = None if condition is None else condition.rows(open_rows)
            if whole is None:
                tokens = tokenizer.encode(image[open_rows], length, told)
            else:
                keep = None if whole.keep is None else whole.keep[open_rows, :length]
                tokens = Tokens(whole.ids[open_rows, :length], keep)
            decoded = tokenizer.decode(tokens, (image.shape[-2], image.shape[-1]), told)
            reached = metric.per_image(to_levels(decoded), pixels[open_rows])
            enough = reached >= target if metric.higher_is_better else reached <= target
            values[open_rows], found[open_rows] = reached.to(values.dtype), length
            open_rows = open_rows[~enough]
    return Lengths(found, values)
