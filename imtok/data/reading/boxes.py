"""``data.boxes``: the boxes of objects in images, from COCO's annotations or from a table."""

import posixpath
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from imtok.data.base import Data, Images, require_list
from imtok.data.images import ImageSet, Source
from imtok.data.reading.decode import DecodeError
from imtok.data.sources.classes import some
from imtok.data.sources.metadata import FILE, csv_rows, json_rows
from imtok.errors import InputError
from imtok.files import read_json

KEY = "data.boxes"
SIDES = ("x", "y", "width", "height")
SLACK = 1.0  # pixels that a box may reach beyond its image, which is cut off: annotations are rounded


class Boxes:
    """Boxes of objects, by the name of their image.

    Args:
        path: One of three kinds of files, each box ``[x, y, width, height]`` in pixels of the upright image:
            ``.json``, COCO's annotations (crowds are left out); ``.jsonl``, a line ``{"file_name": ..., "boxes":
            [[x, y, width, height], ...]}`` for each image, or ``"objects": {"bbox": [...]}`` as in Hugging Face's
            image folders; ``.csv`` with the columns ``file_name,x,y,width,height``, a line for each box.

    Raises:
        InputError: If the file cannot be read, or a box is malformed or has no area. It names file, line and image.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        readers = {".json": _coco, ".jsonl": _lines, ".csv": _table}
        if self.path.suffix not in readers:
            raise InputError(f"{KEY}={path} must be a file {', '.join(readers)}; see docs/data.md")
        if not self.path.is_file():
            raise InputError(f"{KEY}={path} does not exist; give a file {', '.join(readers)}")
        found = dict[str, list[list[float]]]()
        for where, name, box in readers[self.path.suffix](self.path):
            if not isinstance(name, str) or not name:
                raise InputError(f"{path}: {where} names no image ({FILE}); correct or remove it")
            own = found.setdefault(posixpath.normpath(name), [])
            own += [] if box is None else [_checked(box, f"{path}: {where} ({name})")]
        self._boxes = {name: np.array(own, dtype=np.float64).reshape(-1, 4) for name, own in found.items()}
        stems = [name.rpartition(".")[0] or name for name in self._boxes]
        counts = Counter(stems)
        self._stems = {stem: name for stem, name in zip(stems, self._boxes, strict=True) if counts[stem] == 1}

    def name(self, source: Source, index: int) -> str | None:
        """The name of an image in the file: its key, or its key without suffix; None if the file does not name it."""
        key = source.key(index)
        return key if key in self._boxes else self._stems.get(source.stem(index))

    def of(self, source: Source, index: int) -> Float64[np.ndarray, "n 4"]:
        """Left, top, right and bottom of the boxes of an image."""
        name = self.name(source, index)
        return np.zeros((0, 4)) if name is None else self._boxes[name]

    def check(self, source: Source, others: Source) -> None:
        """Check each box of a source's images.

        Args:
            source: The images to measure.
            others: Further images that the file may name.

        Raises:
            InputError: If a box does not lie in its image, or the file names an image of neither.
        """
        known = {name for each in (source, others) for at in range(len(each)) if (name := self.name(each, at))}
        strange = [name for name in self._boxes if name not in known]
        if strange:
            count = f"{len(strange)} images that are" if len(strange) > 1 else "an image that is"
            raise InputError(
                f"{self.path}: names {count} not in the data: {some(strange)}; names are those of the images, "
                f"such as {source.key(0)}"
            )
        outside = list[str]()
        for index in range(len(source)):
            boxes = self.of(source, index)
            if len(boxes):
                outside += _outside(boxes, source, index)
        if outside:
            more = f" (and {len(outside) - 1} more)" if len(outside) > 1 else ""
            raise InputError(f"{self.path}: {outside[0]}{more}; correct or remove it")


def with_boxes(images: Images, path: Any, data: Data) -> Images:
    """Give the samples of images the boxes that a file names.

    Args:
        images: Images to measure, which nothing else reads; they are changed.
        path: See :class:`Boxes`; None = no boxes.
        data: The data of the images. The file may name other images of these data.

    Raises:
        InputError: As in :class:`Boxes` and its ``check``, or if the images are a stream.
    """
    if path is None:
        return images
    listed = require_list(images, f"{KEY} needs images that can be read in any order, and not a stream; leave it out")
    boxes = Boxes(path)
    every = data.evaluation(images.image_size, "all") if "all" in data.splits else images
    # Held-out images may be a list while those to train on are a stream, whose names are not known.
    boxes.check(listed.source, every.source if isinstance(every, ImageSet) else listed.source)
    listed.boxes = boxes.of
    return images


def _outside(boxes: Float64[np.ndarray, "n 4"], source: Source, index: int) -> Iterator[str]:
    """The boxes that do not lie in an image. A damaged image has no size, and no measure counts it."""
    try:
        height, width = source.shape(index)
    except (DecodeError, OSError):
        return
    for left, top, right, bottom in boxes.tolist():
        if min(left, top) < -SLACK or right > width + SLACK or bottom > height + SLACK:
            box = [left, top, right - left, bottom - top]
            size = f"{width} x {height} pixels (width x height)"
            yield f"{source.key(index)} has {size}, and its box {_shown(box)} lies outside of them"


def _checked(box: Any, where: str) -> list[float]:
    """A box as left, top, right and bottom; InputError that names its place in the file if it is malformed."""
    try:
        x, y, width, height = (float(side) for side in box)
    except (TypeError, ValueError):
        x = y = width = height = float("nan")
    if not np.isfinite([x, y, width, height]).all():
        raise InputError(f"{where}: a box must be [x, y, width, height] in pixels, got {box!r:.80}; correct it")
    if width <= 0 or height <= 0:
        raise InputError(f"{where}: the box {_shown([x, y, width, height])} has no area; correct or remove it")
    return [x, y, x + width, y + height]


def _shown(box: list[float]) -> str:
    return f"[{', '.join(f'{side:g}' for side in box)}]"


def _coco(path: Path) -> Iterator[tuple[str, Any, Any]]:
    found = read_json(path)
    lists = [found.get(name) if isinstance(found, dict) else None for name in ("images", "annotations")]
    images, annotations = lists
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise InputError(f"{path}: COCO's annotations have the lists images and annotations; for others give .jsonl")
    names = {image.get("id"): image.get(FILE) for image in images if isinstance(image, dict)}
    for number, one in enumerate(annotations):
        where = f"annotations[{number}]"
        if not isinstance(one, dict) or one.get("image_id") not in names:
            raise InputError(f"{path}: {where} has no image_id that is in images; correct or remove it")
        if not one.get("iscrowd"):
            yield where, names[one["image_id"]], one.get("bbox")


def _lines(path: Path) -> Iterator[tuple[str, Any, Any]]:
    for where, row in json_rows(path):
        objects = row.get("objects")
        boxes = row.get("boxes", objects.get("bbox") if isinstance(objects, dict) else None)
        if not isinstance(boxes, list):
            raise InputError(f"{path}: {where} has no list of boxes (boxes, or bbox in objects); correct or remove it")
        yield where, row.get(FILE), None
        for box in boxes:
            yield where, row.get(FILE), box


def _table(path: Path) -> Iterator[tuple[str, Any, Any]]:
    for where, row in csv_rows(path):
        missing = [name for name in (FILE, *SIDES) if name not in row]
        if missing:
            raise InputError(f"{path}: has no column {', '.join(missing)}; it needs {','.join((FILE, *SIDES))}")
        yield where, row[FILE], [row[side] for side in SIDES]
