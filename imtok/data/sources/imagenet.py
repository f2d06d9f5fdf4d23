"""ImageNet (ILSVRC 2012, arXiv 1409.0575) in the layouts in which it lies on disks, and what has the same layout."""

import csv
import os
from functools import cached_property
from pathlib import Path
from typing import Unpack

import numpy as np
from typing_extensions import override

from imtok.data.base import SPLITS
from imtok.data.images import Columns, Source
from imtok.data.reading.reading import ReadingSettings
from imtok.data.sources.classes import unclassed
from imtok.data.sources.folder import FileSource, Folder
from imtok.errors import InputError

INSIDE = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "imagenette2", "imagenette2-320", "imagenette2-160")
SOLUTION = "LOC_val_solution.csv"  # of Kaggle's archive: which class each validation image is of


class ImageNet(Folder):
    """A folder with ``train`` and ``val``, each with a folder per class; its ``val`` is what is held out.

    Finds Kaggle's ``ILSVRC/Data/CLS-LOC`` and Imagenette's folders below ``path`` too. Classes are numbered in the
    order of their WordNet ids. Where ``val`` is flat, its classes come from Kaggle's ``LOC_val_solution.csv`` in
    ``path``. A ``test`` beside them is ``split=test``, and is what is held out where there is no ``val``. Without
    ``train`` it is any tree of images, as :class:`Folder`. Arguments: :class:`Collection`.

    Raises:
        InputError: From its methods, if there is no image or the classes of a flat ``val`` are not known.
    """

    def __init__(
        self,
        path: str | Path,
        val_path: str | Path | None = None,
        val_fraction: float = 0.05,
        index: str | Path | None = None,
        **reading: Unpack[ReadingSettings],
    ) -> None:
        self.root = Path(path)
        found = next((self.root / inside for inside in INSIDE if (self.root / inside / "train").is_dir()), None)
        if found is not None:
            path = found / "train"
            val_path = val_path or next((found / name for name in ("val", "test") if (found / name).is_dir()), None)
        self.test_path = found / "test" if found is not None and (found / "test").is_dir() else None
        super().__init__(path, val_path, val_fraction, index, None, None, **reading)  # folders are its classes

    @property
    @override
    def default_split(self) -> str:
        return "all" if self.val_path is None else "val"

    @property
    @override
    def splits(self) -> tuple[str, ...]:
        return super().splits if self.test_path is None else SPLITS

    @override
    def _part(self, split: str) -> Source:
        return self._test if split == "test" and self.test_path is not None else super()._part(split)

    @cached_property
    def _test(self) -> Source:
        return self.opened(str(self.test_path), self._training().classes, None)

    @override
    def open(self, path: str, classes: list[str] | None, stored: Columns | None) -> Source:
        source = super().open(path, classes, stored)
        if isinstance(source, FileSource) and classes and Path(path).name == "val" and (source.labels < 0).all():
            self._label(source, classes)
        return source

    def _label(self, source: FileSource, classes: list[str]) -> None:
        """Take the classes of a flat folder from Kaggle's table."""
        table = next(
            (place / SOLUTION for place in (self.root, *self.root.parents[:3]) if (place / SOLUTION).is_file()), None
        )
        if table is None:
            raise InputError(
                f"{self.val_path} has no folders of classes, and there is no {SOLUTION} in {self.root} to tell them; "
                "put it there, or sort the images into folders"
            )
        number = {name: label for label, name in enumerate(classes)}
        try:
            with table.open(newline="") as file:
                names = {row["ImageId"]: row["PredictionString"].split(" ", 1)[0] for row in csv.DictReader(file)}
        except (OSError, KeyError, ValueError, AttributeError, csv.Error):
            raise InputError(f"{table} is not Kaggle's table of ImageId,PredictionString; get it again") from None
        labels = (number.get(names.get(source.stem(index), ""), -1) for index in range(len(source)))
        source.labels = np.fromiter(labels, dtype=np.int64, count=len(source))
        if (source.labels >= 0).any():
            source.remarks = tuple(said for said in source.remarks if said != unclassed(os.fsdecode(source.folder)))
