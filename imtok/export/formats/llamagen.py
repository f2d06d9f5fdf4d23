"""LlamaGen (arXiv 2406.06525), Hita and their kin: two trees of small ``.npy`` files."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from imtok.errors import InputError
from imtok.export.formats.base import Format, Row, class_of, rows
from imtok.export.sequences import Sequencing
from imtok.export.store import TokenStore

LISTED = 1_281_167  # images that the published loaders count on, whatever there is


class LlamaGen(Format):
    """``imagenetS_codes/I.npy``, int64 ``(1, views, tokens)``, and ``imagenetS_labels/I.npy``, int64 ``(1,)``.

    Its loader takes one view at random only where the path has ``flip`` in it, and half of the time the twin folder
    whose name has ``ten_crop_105`` for ``ten_crop``; so those names are asked for.

    Args:
        slots: What becomes of several slots: "interleave", "shared", "combine", or None where there is one.
        unlabelled: Class of images without one; None = there must be none.
        fill: Add links to the first images until there are so many (1281167 for the published loader); None = don't.

    Raises:
        ValueError: If ``fill`` is not positive.
    """

    def __init__(self, slots: str | None = None, unlabelled: int | None = None, fill: int | None = None) -> None:
        if fill is not None and fill < 1:
            raise ValueError(f"fill must be at least 1, got {fill}")
        self.slots, self.unlabelled, self.fill = slots, unlabelled, fill

    @override
    def check(self, store: TokenStore, folder: Path) -> None:
        Sequencing.of(store, self.slots)
        if store.views > 1 and "flip" not in folder.name:
            raise InputError(f"out={folder} must have flip in its name, or LlamaGen joins the {store.views} views")
        check_ten_crop(store, folder)

    @override
    def write(self, store: TokenStore, folder: Path) -> dict[str, Any]:
        sequencing = Sequencing.of(store, self.slots)
        side = store.manifest["image_size"][0]
        codes, labels = folder / f"imagenet{side}_codes", folder / f"imagenet{side}_labels"
        codes.mkdir()
        labels.mkdir()
        names: list[str] = []
        for row in rows(store, sequencing):
            arrays = self.arrays(row, sequencing)
            names = list(arrays)
            for name, array in arrays.items():
                np.save(codes / f"{row.number}{name}.npy", array, allow_pickle=False)
            np.save(labels / f"{row.number}.npy", self.label(row), allow_pickle=False)
        for number in range(len(store), self.fill or 0):
            first = number % len(store)
            (labels / f"{number}.npy").symlink_to(f"{first}.npy")
            for name in names:
                (codes / f"{number}{name}.npy").symlink_to(f"{first}{name}.npy")
        return {"sequence": self.about(sequencing), "notes": self.notes(store, sequencing)}

    def arrays(self, row: Row, sequencing: Sequencing) -> dict[str, np.ndarray]:
        """The code files of an image, by what follows its number in their names."""
        return {"": row.views[None]}

    def label(self, row: Row) -> np.ndarray:
        """The label file of an image."""
        return np.array([class_of(row, self.unlabelled)], dtype=np.int64)

    def about(self, sequencing: Sequencing) -> dict[str, Any]:
        """How ids became what is in the files."""
        return sequencing.about

    def notes(self, store: TokenStore, sequencing: Sequencing) -> list[str]:
        """What the trainer must be told."""
        notes = [f"--vocab-size {sequencing.vocabulary}, {sequencing.length} tokens per image"]
        if math.isqrt(sequencing.length) ** 2 != sequencing.length:
            notes.append(f"LlamaGen's gpt.py wants a square number of tokens, and {sequencing.length} is none")
        if max(len(store), self.fill or 0) != LISTED:
            notes.append(
                f"the published CustomDataset counts {LISTED} files: replace range({LISTED}) by "
                f"range({max(len(store), self.fill or 0)}) in dataset/imagenet.py, or give format.fill={LISTED}"
            )
        return notes


def check_ten_crop(store: TokenStore, folder: Path) -> None:
    """Refuse a name by which the loader would not know which crops these are."""
    suffix = {"ten_crop": "ten_crop", "ten_crop_105": "ten_crop_105"}.get(store.manifest["augment"])
    if suffix and not folder.name.endswith(suffix):
        raise InputError(f"out={folder} must end in {suffix}, by which the loader knows augment={suffix}")
