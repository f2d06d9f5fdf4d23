"""How many tokens an image needs: the least prefix that decodes well enough (One-D-Piece, arXiv 2501.10064).

:func:`search_length` finds it for the images of a batch, and :class:`LengthMeasure` is its statistics of a data set.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from imtok.distributed import gather_values
from imtok.errors import InputError
from imtok.measures.base import EvaluationBatch, Measure, MeasureResult
from imtok.measures.inference import Size, evaluating
from imtok.measures.mean import ImageMean
from imtok.measures.psnr import PSNR
from imtok.pixels import to_levels
from imtok.tokenizer import Tokenizer
from imtok.types import Condition, Quantized, Tokens


class LengthMeasure(Measure):
    """The least number of tokens, a power of two or all of them, at which each image reaches a PSNR.

    Args:
        target: In dB.
    """

    needs_ids = True

    def __init__(self, target: float = 25.0) -> None:
        self.target = target
        self.tried: list[int] = []
        self.lengths: list[int] = []
        self.reached: list[bool] = []
        self.reason: str | None = None

    @override
    def missing(self, tokenizer: Tokenizer, size: Size) -> dict[str, str]:
        if tokenizer.decoder.flexible:
            return {}
        return {"length": f"the tokenizer always takes {tokenizer.num_tokens(size)} tokens"}

    @override
    def start(self, tokenizer: Tokenizer, size: Size) -> None:
        self.reason = self.missing(tokenizer, size).get("length")
        if self.reason is None:
            self.tried = possible_lengths(tokenizer, size)

    @override
    def update(self, seen: EvaluationBatch) -> None:
        if self.reason is None:
            # for each length anew: of encoders with a budget (ALIT, KARL) a prefix is no code of fewer tokens
            lengths, values = search_length(
                seen.tokenizer, seen.image, self.target, None, self.tried, "each", seen.condition
            )
            self.lengths += lengths.tolist()
            self.reached += (values >= self.target).tolist()

    @override
    def finish(self) -> MeasureResult:
        parts = gather_values((self.reason, self.lengths, self.reached))
        reason = next((reason for reason, *_ in parts if reason), None)
        lengths = np.array([length for _, own, _ in parts for length in own])
        reached = np.array([one for *_, own in parts for one in own], dtype=bool)
        if reason or not len(lengths):
            return MeasureResult(absent={"length": reason or "there is no image"})
        enough = lengths[reached]
        values, counts = np.unique(enough, return_counts=True)
        table: dict[str, Any] = {
            "target_psnr": self.target,
            "reached": float(reached.mean()),
            "missed": int((~reached).sum()),
            "mean_of_reached": float(enough.mean()) if len(enough) else None,
            "median_of_reached": float(np.median(enough)) if len(enough) else None,
            "mean_with_all_where_missed": float(lengths.mean()),
            "median_with_all_where_missed": float(np.median(lengths)),
            "lengths": values.tolist(),
            "images": counts.tolist(),
        }
        return MeasureResult(tables={"length": table})


class Lengths(NamedTuple):
    """The least number of tokens for each image of a batch, and what they reach."""

    lengths: Int64[Tensor, " b"]
    values: Float64[Tensor, " b"]


class ChosenLengths(NamedTuple):
    """The least number of tokens for each image of a batch with what it reaches, and these tokens.

    Those of an image are its first ones, and ``quantized.keep`` says which they are.
    """

    found: Lengths
    quantized: Quantized


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
    encode: Literal["once", "each"] | None = None,
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
            another code of another budget (ALIT, KARL); None = what suits the encoder.
        condition: What the tokenizer is told of each image besides its pixels.

    Returns:
        Lengths, and the metric's values there. An image that no length serves has the last one and its value.

    Raises:
        ValueError: If the tokenizer is of fixed length, or a length is out of range.
    """
    return choose_lengths(tokenizer, image, target, metric, lengths, encode, condition).found


def choose_lengths(
    tokenizer: Tokenizer,
    image: Float[Tensor, "b c h w"],
    target: float,
    metric: ImageMean | None = None,
    lengths: Sequence[int] | None = None,
    encode: Literal["once", "each"] | None = None,
    condition: Condition | None = None,
    whole: Quantized | None = None,
) -> ChosenLengths:
    """What :func:`search_length` finds, and the tokens themselves. Arguments and errors as there.

    Args:
        tokenizer: See there, as for all others that are not named here.
        image: See there.
        target: See there.
        metric: See there.
        lengths: See there.
        encode: See there.
        condition: See there.
        whole: Codes of the images, of which the first are taken; None = the images are encoded.

    Returns:
        The lengths, and codes as long as the largest of ``lengths``. What an image does not need of them is left out.
    """
    most = tokenizer.num_tokens((image.shape[-2], image.shape[-1])) if whole is None else whole.ids.shape[1]
    if not tokenizer.decoder.flexible:
        raise ValueError(f"the tokenizer must be of variable length to search one, got one that always takes {most}")
    tried = sorted(set(range(1, most + 1) if lengths is None else lengths))
    if not tried or tried[0] < 1 or tried[-1] > most:
        raise ValueError(f"lengths must be some of 1 to {most} tokens, got {lengths}")
    again = whole is None and (tokenizer.encoder.budgeted if encode is None else encode == "each")
    values = torch.full((len(image),), float("nan"), device=image.device, dtype=torch.float64)
    found = Lengths(torch.full((len(image),), tried[-1], device=image.device), values)
    with evaluating(tokenizer):
        if whole is None and not again:
            whole = tokenizer.quantize(image, condition=condition)
        parts = _search(tokenizer, image, target, metric or PSNR(), tried, whole, condition, found)
    if whole is None:
        return ChosenLengths(found, _joined(parts, tried[-1]))
    kept = torch.arange(tried[-1], device=image.device) < found.lengths[:, None]
    return ChosenLengths(found, left_out(whole.first(tried[-1]), kept))


def _search(
    tokenizer: Tokenizer,
    image: Float[Tensor, "b c h w"],
    target: float,
    metric: ImageMean,
    tried: Sequence[int],
    whole: Quantized | None,
    condition: Condition | None,
    found: Lengths,
) -> list[tuple[Int64[Tensor, " some"], Quantized]]:
    """Fill ``found``. Where ``whole`` is None, returns the codes of the rows that end at each length."""
    size, pixels = (image.shape[-2], image.shape[-1]), to_levels(image)
    open_rows = torch.arange(len(image), device=image.device)
    parts = list[tuple[Tensor, Quantized]]()
    for length in tried:
        if not len(open_rows):
            break
        told = None if condition is None else condition.rows(open_rows)
        if whole is None:
            own = tokenizer.quantize(image[open_rows], length, told)
        else:
            own = rows_of(whole.first(length), open_rows)
        decoded = decode_kept(tokenizer, Tokens(own.ids, own.keep), size, told)
        reached = metric.per_image(to_levels(decoded), pixels[open_rows])
        enough = reached >= target if metric.higher_is_better else reached <= target
        found.values[open_rows], found.lengths[open_rows] = reached.to(found.values.dtype), length
        ends = enough | (length == tried[-1])
        if whole is None and bool(ends.any()):
            parts.append((open_rows[ends], rows_of(own, ends.nonzero()[:, 0])))
        open_rows = open_rows[~ends]
    return parts


def decode_kept(
    tokenizer: Tokenizer, tokens: Tokens, size: Size, condition: Condition | None = None
) -> Float[Tensor, "b c h w"]:
    """Images of tokens of which some leave out their last ones, each decoded as the first few tokens that it has.

    A decoder computes the same of tokens that are masked and of tokens that are not there, but for rounding. Here
    images of one number of tokens are decoded together without the others, as ``tokenizer.encode(image, length)``
    gives them.

    Args:
        tokenizer: In evaluation mode.
        tokens: With ``keep``, or of one length.
        size: Height and width in pixels.
        condition: What the tokenizer is told of the images.

    Raises:
        ValueError: As :meth:`imtok.tokenizer.Tokenizer.decode`.
    """
    if tokens.keep is None or tokens.keep.shape != tokens.ids.shape[:2] or not tokenizer.decoder.flexible:
        return tokenizer.decode(tokens, size, condition)
    places = torch.arange(1, tokens.keep.shape[1] + 1, device=tokens.keep.device)
    ends = (tokens.keep * places).amax(1).clamp(min=1)  # one beyond the last token that there is
    image: Tensor | None = None
    for end in ends.unique().tolist():
        rows = (ends == end).nonzero()[:, 0]
        keep = tokens.keep[rows, :end]
        part = Tokens(tokens.ids[rows, :end], None if keep.all() else keep)
        made = tokenizer.decode(part, size, None if condition is None else condition.rows(rows))
        image = made.new_empty(len(ends), *made.shape[1:]) if image is None else image
        image[rows] = made
    assert image is not None, "there is an image"
    return image


def rows_of(quantized: Quantized, rows: Int64[Tensor, " some"]) -> Quantized:
    """The codes of some images."""
    keep = quantized.keep
    return Quantized(quantized.latents[rows], quantized.ids[rows], None if keep is None else keep[rows])


def left_out(quantized: Quantized, keep: Bool[Tensor, "b n"]) -> Quantized:
    """The same where some tokens more are left out: their latents and ids are zero."""
    keep = keep if quantized.keep is None else keep & quantized.keep
    return replace(
        quantized,
        latents=quantized.latents.masked_fill(~keep[..., None], 0),
        ids=quantized.ids.masked_fill(~keep[..., None], 0),
        keep=keep,
    )


def padded(quantized: Quantized, length: int) -> Quantized:
    """The same with places for so many tokens, of which those that are added are left out."""
    keep = quantized.keep
    if keep is None:
        keep = torch.ones(quantized.ids.shape[:2], dtype=torch.bool, device=quantized.ids.device)
    more = length - quantized.ids.shape[1]
    return Quantized(
        F.pad(quantized.latents, (0, 0, 0, more)), F.pad(quantized.ids, (0, 0, 0, more)), F.pad(keep, (0, more))
    )


def _joined(parts: Sequence[tuple[Tensor, Quantized]], length: int) -> Quantized:
    """The codes of a batch out of those of its rows, each of which is in one part."""
    wide = [padded(part, length) for _, part in parts]
    every = Quantized(
        torch.cat([one.latents for one in wide]),
        torch.cat([one.ids for one in wide]),
        torch.cat([one.keep for one in wide if one.keep is not None]),
    )
    return rows_of(every, torch.cat([rows for rows, _ in parts]).argsort())
