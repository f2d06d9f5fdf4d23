"""How well a tokenizer reconstructs objects: PSNR, SSIM and LPIPS inside the boxes that a data set names."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64, Real
from torch import Tensor
from typing_extensions import override

from imtok.distributed import sum_over_ranks
from imtok.errors import InputError, MissingWeightsError
from imtok.measures.base import Bench, EvaluationBatch, Measure, MeasureResult, Number, Quantity
from imtok.measures.inference import Size
from imtok.measures.keys import with_keys, without_cache
from imtok.measures.lpips import LPIPS
from imtok.measures.mean import UNIT
from imtok.measures.psnr import PSNR
from imtok.measures.ssim import WINDOW, similarity_maps

SIZES = ("", "small", "medium", "large")  # all boxes first
_NEEDED = "metrics=[boxes] reads the boxes of objects, and the data name none; give data.boxes=FILE (docs/data.md)"
_WORDS = {
    "": "all boxes",
    "small": "boxes of small area",
    "medium": "boxes of medium area",
    "large": "boxes of large area",
}
_SSIM = (
    "mean over {} of the mean of the SSIM map of uint8 RGB pixels (Gaussian 11x11, sigma 1.5, valid, data range 255)"
)
_PSNR = "mean over {} of the PSNR of uint8 RGB pixels (rounded, peak 255), at most 100 dB each"
_LPIPS = "mean over {} of LPIPS 0.1 of the box, enlarged to at least 32 x 32 pixels, of uint8 RGB pixels in [-1, 1]"


def _quantities(size: str, lpips: str = "") -> tuple[Quantity, ...]:
    """The numbers of a size; that of LPIPS only if its name is given."""
    end, of = f"_{size}" if size else "", f" of {size} objects" if size else ""
    share = "Faces and other small things suffer most."
    perceptual = Quantity(
        f"boxes_{lpips}{end}",
        title=f"LPIPS in boxes{of}",
        convention=_LPIPS.format(_WORDS[size]),
        higher_is_better=False,
        meaning=f"Perceptual distance of the pixels around objects, in the features of a net. {share}",
    )
    return (
        Quantity(
            f"boxes_psnr{end}",
            title=f"PSNR in boxes{of}",
            unit="dB",
            convention=_PSNR.format(_WORDS[size]),
            higher_is_better=True,
            meaning=f"Peak signal-to-noise ratio inside the boxes of objects. {share}",
        ),
        Quantity(
            f"boxes_ssim{end}",
            title=f"SSIM in boxes{of}",
            convention=_SSIM.format(_WORDS[size]),
            higher_is_better=True,
            meaning=f"Structural similarity around the pixels inside the boxes of objects. {share}",
        ),
        *((perceptual,) if lpips else ()),
    )


class BoxMeasure(Measure):
    """Mean PSNR, SSIM and LPIPS of the pixels inside boxes, for all boxes and for three sizes.

    Sizes are COCO's (arXiv 1405.0312): small below 32 x 32 pixels of area, large from 96 x 96 on. Areas are those
    in the measured image, as the tokenizer sees it; with ``crop=none`` that is the file's own size. A box counts with
    all pixels that it touches. SSIM is the mean of the image's SSIM map inside the box, so boxes smaller than the
    window have a value, too. Boxes in the outermost five pixels have none, since no whole window fits there.

    LPIPS (:class:`~imtok.measures.lpips.LPIPS`) compares the boxes as images of their own. It needs 32 x 32 pixels, so
    a smaller box is enlarged around its centre, and moved into the image. Images with a shorter side have no value.
    LPIPS is left out if ``backbone`` is None and its weights are not on this machine.

    Args:
        small: A box of less area than a square with this side, in pixels, is small.
        large: A box of at least the area of a square with this side, in pixels, is large.
        visible: Boxes of which the measured crop shows less than this fraction of the area are left out, in (0, 1].
        network: The net of LPIPS, "alex" or "vgg"; None = no LPIPS.
        backbone: torchvision's weight file of that net; None = the one in the cache of ``torch.hub``, if it is there.

    Raises:
        ValueError: If an argument is out of range.
        InputError: If ``backbone`` names no file, or another one.
    """

    quantities = tuple(quantity for size in SIZES for quantity in _quantities(size))
    any_size = True

    def __init__(
        self,
        small: int = 32,
        large: int = 96,
        visible: float = 0.5,
        network: str | None = "alex",
        backbone: str | Path | None = None,
    ) -> None:
        if not 0 < small < large:
            raise ValueError(f"small must be positive and less than large, got {small} and {large}")
        if not 0 < visible <= 1:
            raise ValueError(f"visible must be a fraction of a box's area in (0, 1], got {visible}")
        self.small, self.large, self.visible = small, large, visible
        self.lpips, self.lacking = None, dict[str, str]()
        if network is not None:
            try:
                self.lpips = LPIPS(network, backbone)
            except MissingWeightsError as error:
                if backbone is not None:
                    raise
                said = with_keys(error, {"weights": "measure.boxes.backbone"})
                self.lacking = {f"boxes_lpips_{network}": without_cache(str(said))}
        if self.lpips is not None:
            self.quantities = tuple(quantity for size in SIZES for quantity in self._quantities(size))
        # for each size of SIZES: boxes and the sum of their PSNR, boxes with SSIM and its sum, boxes with LPIPS and its
        # sum, in units of 2^-32
        self.sums = torch.zeros(len(SIZES), 6, dtype=torch.int64)
        self.hidden, self.unnamed = torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.int64)
        self.exact, self.psnr = torch.device("cpu"), PSNR()

    @override
    def set_up(self, bench: Bench) -> None:
        self.exact = bench.exact
        if self.lpips is not None:
            self.lpips = self.lpips.to(bench.device)

    @override
    def update(self, seen: EvaluationBatch) -> None:
        boxes = seen.batch.boxes
        if len(boxes) != len(seen.batch.key):
            self.unnamed.fill_(1)
            return
        made, target = seen.pixels.to(self.exact), seen.target.to(self.exact)
        for row, own in enumerate(boxes):
            if len(own):
                self._count(made[row : row + 1], target[row : row + 1], own)

    def _count(
        self, made: Real[Tensor, "1 c h w"], target: Real[Tensor, "1 c h w"], boxes: Float64[Tensor, "n 4"]
    ) -> None:
        """Add the boxes of an image."""
        height, width = target.shape[-2:]
        similar = None
        if min(height, width) >= WINDOW:
            luminance, contrast = similarity_maps(made.double(), target.double())
            similar = (luminance * contrast).mean((0, 1))
        for box in boxes.tolist():
            left, right = max(box[0], 0.0), min(box[2], float(width))
            top, bottom = max(box[1], 0.0), min(box[3], float(height))
            shown = max(right - left, 0.0) * max(bottom - top, 0.0)
            whole = (box[2] - box[0]) * (box[3] - box[1])
            if shown <= 0 or shown < self.visible * whole:
                self.hidden += 1
                continue
            rows = slice(math.floor(top), math.ceil(bottom))
            columns = slice(math.floor(left), math.ceil(right))
            psnr = self.psnr.per_image(made[..., rows, columns], target[..., rows, columns]).item()
            found = torch.tensor([1, round(psnr / UNIT), 0, 0, 0, 0])
            if similar is not None:
                edge = WINDOW // 2
                inside = similar[_moved(rows, edge, height), _moved(columns, edge, width)]
                if inside.numel():
                    found[2:4] = torch.tensor([1, round(inside.mean().item() / UNIT)])
            least = self.lpips.smallest if self.lpips is not None else 0
            if self.lpips is not None and min(height, width) >= least:
                pixels = (..., _enlarged(rows, least, height), _enlarged(columns, least, width))
                pair = (one[pixels].to(self.lpips.device) for one in (made, target))
                found[4:] = torch.tensor([1, round(self.lpips.per_image(*pair).item() / UNIT)])
            for place in (0, self._size(whole)):
                self.sums[place] += found

    def _quantities(self, size: str) -> tuple[Quantity, ...]:
        """The numbers of a size of SIZES."""
        return _quantities(size, self.lpips.name if self.lpips is not None else "")

    def _size(self, area: float) -> int:
        """The position in SIZES of a box with this area."""
        return 1 if area < self.small**2 else 2 if area < self.large**2 else 3

    @override
    def finish(self) -> MeasureResult:
        sums, hidden = sum_over_ranks(self.sums), int(sum_over_ranks(self.hidden))
        if int(sum_over_ranks(self.unnamed)):
            return MeasureResult(absent={quantity.name: _NEEDED for quantity in self.quantities})
        found = MeasureResult(absent=dict(self.lacking))
        limits = {"small": self.small, "large": self.large, "visible": self.visible}
        for size, row in zip(SIZES, sums.tolist(), strict=True):
            for quantity, count, total in zip(self._quantities(size), row[::2], row[1::2], strict=False):
                if count:
                    facts = {**limits, "boxes": count, **({"left_out": hidden} if not size else {})}
                    if self.lpips is not None and "lpips" in quantity.name:
                        facts |= self.lpips.facts
                    found.numbers[quantity.name] = Number(total * UNIT / count, facts=facts)
                else:
                    found.absent[quantity.name] = self._reason(size, row[0], hidden, quantity.name)
        return found

    def _reason(self, size: str, boxes: int, hidden: int, name: str) -> str:
        """The reason why a number is missing."""
        if boxes and self.lpips is not None and "lpips" in name:
            return f"LPIPS needs images of at least {self.lpips.smallest} pixels a side"
        if boxes:
            return f"no such box has a pixel with a whole window of {WINDOW} x {WINDOW} pixels around it"
        left_out = f" ({hidden} are shown by less than {self.visible:g} of their area)" if hidden else ""
        return f"no image has a {size} box{left_out}" if size else f"no image has a box{left_out}"

    @override
    def numbers(self, size: Size) -> Sequence[Quantity]:
        return self.quantities


def _moved(part: slice, edge: int, side: int) -> slice:
    """Rows or columns of an image as those of a map that lacks ``edge`` of them at each edge."""
    return slice(max(part.start - edge, 0), max(min(part.stop, side - edge) - edge, 0))


def _enlarged(part: slice, least: int, side: int) -> slice:
    """Rows or columns of an image, as many as asked for at least, around the same centre and inside of the image."""
    length = max(part.stop - part.start, least)
    start = min(max((part.start + part.stop - length) // 2, 0), side - length)
    return slice(start, start + length)


def require_boxes(measures: Mapping[str, Any], boxes: Any) -> None:
    """Refuse the measure of boxes before anything is computed, if the data name no boxes.

    Args:
        measures: The sections of the measures.
        boxes: The value of ``data.boxes``.

    Raises:
        InputError: If there are none; it names the key.
    """
    own = f"{BoxMeasure.__module__}.{BoxMeasure.__qualname__}"
    if boxes is None and any(isinstance(one, Mapping) and one.get("_target_") == own for one in measures.values()):
        raise InputError(_NEEDED)
