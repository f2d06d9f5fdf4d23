"""Whether tokens go where an image needs them: tokens of each image against its JPEG bytes and against its edges.

One-D-Piece (arXiv 2501.10064) and KARL (arXiv 2507.07995) compare lengths with how complex an image is. A codec at
equal quality is a measure of that which knows nothing of the tokenizer.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, UInt8
from torch import Tensor
from typing_extensions import override

from imtok.distributed import gather_values
from imtok.measures.base import EvaluationBatch, Measure, MeasureResult, Number, Quantity
from imtok.measures.codecs import compress, header_bytes
from imtok.measures.inference import Size
from imtok.measures.length import choose_lengths, decode_kept, possible_lengths
from imtok.measures.looks import draw_sheet, pixels_of
from imtok.measures.psnr import PSNR
from imtok.pixels import rgb_levels, to_levels
from imtok.tokenizer import Tokenizer
from imtok.types import Tokens

_SHOWN = 8  # images with the least and with the most tokens
_BEST = 95  # above it JPEG's bytes rise without its quality
_SAME = "every image has {tokens} tokens"
_CONVENTION = "Spearman's rank correlation over images, ties at their mean rank"
_QUANTITIES = tuple(
    Quantity(name, title, "", f"{_CONVENTION}; {what}", higher_is_better=True, meaning=meaning)
    for name, title, what, meaning in (
        (
            *("allocation_jpeg", "Tokens and JPEG bytes"),
            "bytes without header of the least JPEG quality that reaches the PSNR of the image's reconstruction",
            "1 where an image that takes more bytes as a JPEG of equal quality always has more tokens, 0 if by chance.",
        ),
        (
            *("allocation_jpeg_50", "Tokens and JPEG bytes at quality 50"),
            "bytes without header at quality 50",
            "The same against JPEG's bytes at one setting for all images.",
        ),
        (
            *("allocation_edges", "Tokens and edges"),
            "mean length of Sobel's gradient of the luma, in levels per pixel",
            "The same against how much an image has of edges.",
        ),
    )
)


class _Image(NamedTuple):
    """What is known of an image; pixels of the original and of its reconstruction."""

    key: str
    tokens: int
    psnr: float
    bytes: int
    bytes_50: int
    edges: float
    shown: tuple[np.ndarray, np.ndarray]


class AllocationMeasure(Measure):
    """Spearman's correlation of tokens with JPEG bytes at equal quality and with edges; the images with few and many.

    An image has the tokens that the evaluation gives it where these differ (``target=``, ``condition.quality=``). Else
    it has the fewest that reach a PSNR.

    Args:
        target: That PSNR, in dB.
    """

    quantities = _QUANTITIES
    needs_ids = True

    def __init__(self, target: float = 25.0) -> None:
        self.target = target
        self.images: list[_Image] = []
        self.tried: list[int] = []
        self.reason: str | None = None

    @override
    def missing(self, tokenizer: Tokenizer, size: Size) -> dict[str, str]:
        if tokenizer.decoder.flexible:
            return {}
        return dict.fromkeys((one.name for one in _QUANTITIES), _SAME.format(tokens=tokenizer.num_tokens(size)))

    @override
    def start(self, tokenizer: Tokenizer, size: Size) -> None:
        self.reason = next(iter(self.missing(tokenizer, size).values()), None)
        self.tried = [] if self.reason else possible_lengths(tokenizer, size)

    @override
    def update(self, seen: EvaluationBatch) -> None:
        if self.reason is not None:
            return
        quantized, pixels = seen.reconstruction.quantized, seen.pixels
        if seen.whole and quantized.keep is None:
            chosen = choose_lengths(seen.tokenizer, seen.image, self.target, None, self.tried, condition=seen.condition)
            quantized = chosen.quantized
            tokens = Tokens(quantized.ids, quantized.keep)
            pixels = to_levels(decode_kept(seen.tokenizer, tokens, seen.size, seen.condition))
        assert quantized.keep is not None, "lengths differ"
        counts, target = quantized.keep.sum(1).tolist(), seen.target.cpu()
        values = PSNR().per_image(pixels.cpu(), target).tolist()
        target, pixels = rgb_levels(target), rgb_levels(pixels.cpu())  # as a JPEG has them
        slopes = edges(target).tolist()
        for row, key in enumerate(seen.batch.key):
            own, at_50 = jpeg_bytes(target[row], values[row]), compress(target[row], "jpeg", 50)[1]
            self.images.append(
                _Image(
                    key,
                    counts[row],
                    values[row],
                    own,
                    at_50 - header_bytes("jpeg", 50),
                    slopes[row],
                    (pixels_of(target[row]), pixels_of(pixels[row])),
                )
            )
        self.images = _ends(self.images)

    @override
    def finish(self) -> MeasureResult:
        parts = gather_values((self.reason, self.images))
        reason = next((reason for reason, _ in parts if reason), None)
        images = sorted((one for _, own in parts for one in own), key=lambda one: (one.tokens, one.key))
        tokens = np.array([one.tokens for one in images], np.float64)
        if reason is None and len(np.unique(tokens)) < 2:
            reason = _SAME.format(tokens=int(tokens[0])) if len(tokens) else "there is no image"
        if reason is not None:
            return MeasureResult(absent=dict.fromkeys((one.name for one in _QUANTITIES), reason))
        columns = {
            "allocation_jpeg": np.array([one.bytes for one in images], np.float64),
            "allocation_jpeg_50": np.array([one.bytes_50 for one in images], np.float64),
            "allocation_edges": np.array([one.edges for one in images]),
        }
        facts = {"images": len(images), "target": self.target}
        numbers = {name: Number(spearman(tokens, column), facts=facts) for name, column in columns.items()}
        few, many = images[:_SHOWN], images[::-1][:_SHOWN]
        return MeasureResult(
            numbers,
            tables={"allocation": _table(images)},
            arrays={"allocation_tokens": tokens.astype(np.int64), **columns},
            pictures={
                "Images with the fewest tokens, each above its reconstruction": _sheet(few),
                "Images with the most tokens, each above its reconstruction": _sheet(many),
            },
        )


def spearman(one: Float64[np.ndarray, " n"], other: Float64[np.ndarray, " n"]) -> float:
    """Spearman's rank correlation; ties have their mean rank. 0 where a row is all the same.

    Example:
        >>> spearman(np.array([1.0, 2.0, 2.0, 9.0]), np.array([10.0, 20.0, 20.0, 21.0]))
        1.0
    """
    ranks = [_ranks(values) for values in (one, other)]
    centred = [values - values.mean() for values in ranks]
    length = np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    return float((centred[0] * centred[1]).sum() / length) if length > 0 else 0.0


def edges(image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """Mean length of Sobel's gradient of the luma (BT.601), in levels per pixel; the borders repeat the last pixel."""
    luma = (image.double() * torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]).sum(
        1, keepdim=True
    )
    kernel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]], dtype=torch.float64) / 8
    slopes = F.conv2d(F.pad(luma, (1, 1, 1, 1), mode="replicate"), torch.stack([kernel, kernel.T])[:, None])
    return slopes.square().sum(1).sqrt().mean((1, 2))


def jpeg_bytes(image: UInt8[Tensor, "3 h w"], psnr: float) -> int:
    """Bytes without header of the least JPEG quality, from 1 to 95, that reaches a PSNR; those of 95 if none does.

    The PSNR of a JPEG rises with its quality, but for a few hundredths of a dB: the quality is found by halving.
    """
    low, high = 1, _BEST
    found = dict[int, int]()
    while low < high:
        middle = (low + high) // 2
        decoded, found[middle] = compress(image, "jpeg", middle)
        if float(PSNR().per_image(decoded[None], image[None])[0]) >= psnr:
            high = middle
        else:
            low = middle + 1
    size = found[low] if low in found else compress(image, "jpeg", low)[1]
    return size - header_bytes("jpeg", low)


def _ranks(values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[places]


def _ends(images: list[_Image]) -> list[_Image]:
    """The same, where only images that may be shown keep their pixels."""
    order = sorted(range(len(images)), key=lambda place: (images[place].tokens, images[place].key))
    kept = {*order[:_SHOWN], *order[-_SHOWN:]}
    nothing = (np.zeros(0, np.uint8),) * 2
    return [one if place in kept else one._replace(shown=nothing) for place, one in enumerate(images)]


def _table(images: list[_Image]) -> list[dict[str, Any]]:
    """A row for each number of tokens, or for ranges of it where there are many."""
    numbers = np.array([one.tokens for one in images])
    groups = np.array_split(np.unique(numbers), min(_SHOWN, len(np.unique(numbers))))
    rows = list[dict[str, Any]]()
    for group in groups:
        own = [one for one in images if group[0] <= one.tokens <= group[-1]]
        rows.append(
            {
                "tokens": f"{group[0]}" if len(group) == 1 else f"{group[0]} to {group[-1]}",
                "images": len(own),
                "psnr": float(np.mean([one.psnr for one in own])),
                "jpeg_bytes_at_equal_psnr": float(np.mean([one.bytes for one in own])),
                "jpeg_bytes_at_quality_50": float(np.mean([one.bytes_50 for one in own])),
                "edges": float(np.mean([one.edges for one in own])),
            }
        )
    return rows


def _sheet(images: list[_Image]) -> bytes:
    rows = [[one.shown[place] for one in images] for place in (0, 1)]
    ends = sorted({images[0].tokens, images[-1].tokens})
    return draw_sheet([("-".join(map(str, ends)), rows[0]), ("tokens", rows[1])])
