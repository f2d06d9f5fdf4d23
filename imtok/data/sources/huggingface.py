"""Hugging Face data sets on a local disk: a folder of Parquet files, or what ``save_to_disk`` wrote."""

import re
from functools import cached_property
from pathlib import Path
from typing import Unpack

from typing_extensions import override

from imtok.data.base import Images, check_split
from imtok.data.images import Columns, Source
from imtok.data.reading.reading import ReadingSettings
from imtok.data.sources.collection import Collection
from imtok.data.sources.joined import Joined
from imtok.data.sources.tables import TableSource
from imtok.errors import InputError

# What Hugging Face calls the parts of a data set.
PARTS = {"train": ("train", "training"), "validation": ("validation", "val", "valid", "dev")}
PARTS |= {"test": ("test", "testing", "eval", "evaluation")}
TABLES = (".parquet", ".arrow")


class HuggingFace(Collection):
    """The images of a column of a table. Needs the package ``pyarrow``; nothing of a data set's own code is run.

    Files are told apart by what Hugging Face calls them: ``data/train-00000-of-00004.parquet``,
    ``validation/0000.parquet``, ``train/data-00000-of-00001.arrow``. If there are some of a validation (or else of a
    test) split, these are what is held out; ``split=test`` are those of the test split.

    Args:
        path: A folder with ``.parquet`` or ``.arrow`` files at any depth, or one such file.
        image: Name of the column of images, or of a field in one (``sample.image``); None = ``image``, ``img``, ...
        label: Name of the column of classes; None = ``label``, ``labels``, ... if there is one; "" = no classes.
        caption: Name of a column of texts, or of lists of texts; None = there are no captions.
        mixed: Mix so many groups of rows at a time in training, at least 1. Rows are read by groups, and so many
            groups are kept in memory.
        val_path: See :class:`Collection`.
        val_fraction: See :class:`Collection`.
        **reading: See :class:`~imtok.data.reading.reading.Reading`.

    Raises:
        ValueError: If an argument is out of range.
        InputError: From its methods, if there is no table, one cannot be used, or pyarrow is not installed.
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
        **reading: Unpack[ReadingSettings],
    ) -> None:
        super().__init__(path, val_path, val_fraction, None, **reading)  # it takes no index
        if mixed < 1:
            raise ValueError(f"mixed must be at least 1 group of rows, got {mixed}")
        self.image, self.label, self.caption, self.mixed = image, label, caption, mixed
        self._opened: dict[str, TableSource] = {}

    @property
    @override
    def default_split(self) -> str:
        return "val" if self.val_path is None and self._held_out_part is not None else "all"

    @property
    @override
    def holds_out(self) -> bool:
        return self.val_path is not None or self._held_out_part is not None

    @property
    @override
    def measures_apart(self) -> bool:
        return self._held_out_part is not None or super().measures_apart

    @property
    @override
    def splits(self) -> tuple[str, ...]:
        if list(self._parts) == ["train"]:
            return super().splits
        val = self.val_path is not None or self._held_out_part is not None
        named = {
            "train": "train" in self._parts or self.val_path is not None,
            "val": val,
            "test": "test" in self._parts,
            "all": True,
        }
        return tuple(split for split, there in named.items() if there)

    @override
    def train(self, image_size: int, seed: int) -> Images:
        if "train" not in self._parts and self.val_path is None:
            raise InputError(
                f"data.path={self.path} holds no table of a training split, only of {' and '.join(self._parts)}; give "
                "one, or rename the files"
            )
        return super().train(image_size, seed)

    @override
    def open(self, path: str, classes: list[str] | None, stored: Columns | None) -> Source:
        files = find_tables(Path(path))
        return self._table(files, key_names(files, Path(path)), None if classes is None else self._first)

    @override
    def _part(self, split: str) -> Source:
        check_split(split, self.splits)
        if list(self._parts) == ["train"] or split == "all" or (self.val_path is not None and split != "test"):
            return super()._part(split)
        return self._side((self._held_out_part or split) if split == "val" else split)

    @override
    def _open_path(self) -> Source:
        if len(self._parts) == 1:
            return self._side(next(iter(self._parts)))
        return Joined([self._side(part) for part in self._parts])

    @override
    def _training(self) -> Source:
        return self._side("train") if "train" in self._parts else self._all

    @property
    def _held_out_part(self) -> str | None:
        return next((part for part in ("validation", "test") if part in self._parts), None)

    @cached_property
    def _parts(self) -> dict[str, list[Path]]:
        return parts(find_tables(Path(self.path)), Path(self.path))

    @cached_property
    def _names(self) -> dict[Path, str]:
        files = find_tables(Path(self.path))
        return dict(zip(files, key_names(files, Path(self.path)), strict=True))

    @property
    def _first(self) -> TableSource:
        """The part whose classes all others count in."""
        return self._side("train" if "train" in self._parts else next(iter(self._parts)))

    def _side(self, part: str) -> TableSource:
        if part not in self._opened:
            first = part == "train" or part == next(iter(self._parts))
            files = self._parts[part]
            self._opened[part] = self._table(
                files, [self._names[file] for file in files], None if first else self._first
            )
        return self._opened[part]

    def _table(self, files: list[Path], names: list[str], first: TableSource | None) -> TableSource:
        source = TableSource(files, self.mixed, self.image, self.label, self.caption, first, names)
        source.reading = self.reading
        return source


def find_tables(path: Path) -> list[Path]:
    """The tables below a folder, in the order of their names, but for hidden ones; InputError if there are none."""
    if path.is_file() and path.suffix.lower() in TABLES:
        return [path]
    found = sorted(file for file in path.rglob("[!.]*") if file.suffix.lower() in TABLES) if path.is_dir() else []
    files = [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    # What datasets leaves of its own passes.
    files = [file for file in files if not (file.name.startswith("cache-") and file.suffix == ".arrow")]
    if not files:
        raise InputError(f"data.path={path} holds no .parquet or .arrow file; give the folder of a data set")
    return files


def parts(files: list[Path], root: Path) -> dict[str, list[Path]]:
    """Tables by the part of the data set that their names, or else their folders, say they are of; "train" if none.

    Example:
        >>> files = [Path("data/train-0.parquet"), Path("data/validation-0.parquet"), Path("data/test-0.parquet")]
        >>> {part: [file.name for file in found] for part, found in parts(files, Path("data")).items()}
        {'train': ['train-0.parquet'], 'validation': ['validation-0.parquet'], 'test': ['test-0.parquet']}
    """
    of = {word: part for part, words in PARTS.items() for word in words}
    found: dict[str, list[Path]] = {}
    for file in files:
        relative = file.relative_to(root) if file != root else Path(file.name)
        words = [word for name in reversed(relative.parts) for word in re.split(r"[-_. 0-9]+", name.lower())]
        found.setdefault(next((of[word] for word in words if word in of), "train"), []).append(file)
    return {part: found[part] for part in PARTS if part in found}


def key_names(files: list[Path], root: Path) -> list[str]:
    """What keys start with, for each file: its name, and before it as many folders as no other file's path ends with.

    Example:
        >>> key_names([Path("d/train/0.arrow"), Path("d/test/0.arrow"), Path("d/more.arrow")], Path("d"))
        ['train/0.arrow', 'test/0.arrow', 'more.arrow']
    """
    paths = [(file.relative_to(root) if file != root else Path(file.name)).parts for file in files]
    ends: dict[tuple[str, ...], int] = {}
    for path in paths:
        for at in range(len(path)):
            ends[path[at:]] = ends.get(path[at:], 0) + 1
    shortest = [next((path[at:] for at in reversed(range(len(path))) if ends[path[at:]] == 1), path) for path in paths]
    return ["/".join(path) for path in shortest]
