"""Hugging Face data sets on a local disk: a folder of Parquet files, or what ``save_to_disk`` wrote."""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from typing_extensions import override

from imtok.data.base import Images, check_split
from imtok.data.collection import Collection
from imtok.data.decode import MAX_PIXELS, WHITE
from imtok.data.images import Columns, Source
from imtok.data.joined import Joined
from imtok.data.tables import TableSource
from imtok.errors import InputError

SPLITS = ("train", "validation", "val", "valid", "test")  # the first of those after "train" is what is held out
TABLES = (".parquet", ".arrow")


class HuggingFace(Collection):
    """The images of a column of a table. Needs the package ``pyarrow``; nothing of a data set's own code is run.

    Files are told apart by what Hugging Face calls them: ``data/train-00000-of-00004.parquet``,
    ``validation/0000.parquet``, ``train/data-00000-of-00001.arrow``. If there are some of a validation (or else of a
    test) split, these are what is held out.

    Args:
        path: A folder with ``.parquet`` or ``.arrow`` files at any depth, or one such file.
        image: Name of the column of images; None = ``image``, ``img``, ``jpg``, ...
        label: Name of the column of classes; None = ``label``, ``labels``, ... if there is one.
        caption: Name of a column of texts; None = there are no captions.
        mixed: Mix so many groups of rows at a time in training, at least 1. Rows are read by groups, and so many
            groups are kept in memory.
        val_path: See :class:`Collection`.
        val_fraction: See :class:`Collection`.
        scale: See :class:`Collection`.
        flip: See :class:`Collection`.
        crop: See :class:`Collection`.
        decode: See :class:`Collection`.
        max_pixels: See :class:`Collection`.
        background: See :class:`Collection`.

    Raises:
        ValueError: If an argument is out of range.
        InputError: From its methods, if there is no table, one cannot be read, or pyarrow is not installed.
    """

    kind = "table"

    def __init__(
        self,
        path: str | Path,
        image: str | None = None,
        label: str | None = None,
        caption: str | None = None,
        mixed: int = 8,
        val_path: str | Path | None = None,
        val_fraction: float = 0.05,
        scale: Sequence[float] = (0.8, 1.0),
        flip: bool = True,
        crop: Literal["square", "adm"] = "square",
        decode: Literal["exact", "scaled"] = "exact",
        max_pixels: int = MAX_PIXELS,
        background: Sequence[int] = WHITE,
    ) -> None:
        super().__init__(path, val_path, val_fraction, scale, flip, crop, decode, max_pixels, background)
        if mixed < 1:
            raise ValueError(f"mixed must be at least 1 group of rows, got {mixed}")
        self.image, self.label, self.caption, self.mixed = image, label, caption, mixed
        self._opened: dict[str, Source] = {}

    @property
    @override
    def holds_out(self) -> bool:
        return self.val_path is not None or "val" in self._sides

    @override
    def evaluation(self, image_size: int, split: str | None = None) -> Images:
        """The held-out split where the files name one; otherwise every image of ``path`` by default."""
        apart = split is None and self.val_path is None and "val" in self._sides
        return super().evaluation(image_size, "val" if apart else split)

    @override
    def open(self, path: str, classes: list[str] | None, stored: Columns | None) -> Source:
        return self._table(find_tables(Path(path)), classes)

    @override
    def _part(self, split: str) -> Source:
        if self.val_path is not None or "val" not in self._sides:
            return super()._part(split)
        check_split(split)
        return Joined([self._side("train"), self._side("val")]) if split == "all" else self._side(split)

    def _side(self, side: str) -> Source:
        if "train" not in self._sides:
            raise InputError(f"data.path={self.path} holds no table of a training split; give one, or rename the files")
        first = self._opened.setdefault("train", self._table(self._sides["train"], None))
        return self._opened.setdefault(
            side, first if side == "train" else self._table(self._sides[side], first.classes)
        )

    @cached_property
    def _sides(self) -> dict[str, list[Path]]:
        return sides(find_tables(Path(self.path)), Path(self.path))

    def _table(self, files: list[Path], classes: list[str] | None) -> Source:
        source = TableSource(files, self.mixed, self.image, self.label, self.caption, classes)
        source.max_pixels, source.background = self.max_pixels, self.background
        return source


def find_tables(path: Path) -> list[Path]:
    """The tables below a folder, in the order of their names; InputError if there are none."""
    if path.is_file() and path.suffix in TABLES:
        return [path]
    files = sorted(file for suffix in TABLES for file in path.rglob(f"[!.]*{suffix}")) if path.is_dir() else []
    files = [file for file in files if not file.name.startswith("cache-")]  # what datasets leaves of its own passes
    if not files:
        raise InputError(f"data.path={path} holds no .parquet or .arrow file; give the folder of a data set")
    return files


def sides(files: list[Path], root: Path) -> dict[str, list[Path]]:
    """Which tables are to train on and which are held out, by what they and their folders are called.

    Example:
        >>> files = [Path("data/train-0.parquet"), Path("data/validation-0.parquet"), Path("data/test-0.parquet")]
        >>> {side: [file.name for file in found] for side, found in sides(files, Path("data")).items()}
        {'train': ['train-0.parquet'], 'val': ['validation-0.parquet']}
    """
    found: dict[str, list[Path]] = {}
    for file in files:
        relative = file.relative_to(root) if file != root else Path(file.name)
        tokens = [re.split(r"[-_.]", part.lower())[0] for part in relative.parts]
        name = next((known for known in SPLITS if known in tokens), "train")
        found.setdefault(name, []).append(file)
    held_out = next((name for name in SPLITS[1:] if name in found), None)
    chosen = {"train": found.get("train", []), "val": found.get(held_out, []) if held_out else []}
    return {side: own for side, own in chosen.items() if own}
