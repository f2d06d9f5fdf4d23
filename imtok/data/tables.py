"""Parquet and Arrow files with a column of images, as Hugging Face data sets lie on a disk."""

import importlib
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from imtok.data.images import MAX_BYTES, Source
from imtok.data.order import Blocks
from imtok.errors import InputError

IMAGES = ("image", "img", "jpg", "png", "webp", "jpeg")  # what columns are called, most likely first
LABELS = ("label", "labels", "fine_label", "class", "cls")


class TableSource(Source):
    """The images of a column, file by file and row by row; a group of rows is read at a time.

    Args:
        files: Parquet or Arrow files, all with the same columns.
        mixed: Mix so many groups of rows at a time in training.
        image: Name of the column of images: bytes, or a struct with ``bytes``; None = the first usual name.
        label: Name of the column of classes, numbers or names; None = the first usual name, if there is one.
        caption: Name of a column of texts; None = there are no captions.
        classes: Number named classes like this; None = by their own names.

    Raises:
        InputError: If a file cannot be read, or a column is missing or of another type.
    """

    def __init__(
        self,
        files: list[Path],
        mixed: int = 8,
        image: str | None = None,
        label: str | None = None,
        caption: str | None = None,
        classes: list[str] | None = None,
    ) -> None:
        self.files = files
        tables = [_Table(file) for file in files]
        names = tables[0].names
        self.image_column = _column(files[0], names, image, IMAGES, "image") or ""
        label = _column(files[0], names, label, LABELS, "label", required=False)
        self.caption_column = None if caption is None else _column(files[0], names, caption, (), "caption")
        self.groups = [(number, group) for number, table in enumerate(tables) for group in range(len(table.rows))]
        sizes = [rows for table in tables for rows in table.rows]
        self.ends = np.cumsum(sizes, dtype=np.int64)
        self.starts = np.concatenate([np.concatenate([[0], np.cumsum(t.rows)[:-1]]) for t in tables if t.rows] or [[0]])
        if not sum(sizes):
            raise InputError(f"{files[0].parent} holds tables without a row; give a folder with images")
        self.blocks = Blocks(tuple(sizes), mixed)
        self.kept: OrderedDict[int, Any] = OrderedDict()
        values = [] if label is None else [value for table in tables for value in table.column(label)]
        self.classes, self.labels = _numbered(values, tables[0].class_names(label), classes, len(self))

    @override
    def __len__(self) -> int:
        return int(self.ends[-1])

    @override
    def read(self, index: int) -> bytes:
        value = self._value(self.image_column, index)
        value = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(value, bytes):
            raise OSError("has no bytes in the table (a path to another file?)")
        if len(value) > MAX_BYTES:
            raise OSError(f"is larger than {MAX_BYTES} bytes")
        return value

    @override
    def caption(self, index: int) -> str | None:
        value = None if self.caption_column is None else self._value(self.caption_column, index)
        return value if isinstance(value, str) else None

    @override
    def key(self, index: int) -> str:
        group = self._group(index)
        file = self.files[self.groups[group][0]].name
        return f"{file}:{int(self.starts[group]) + self._row(group, index):07d}"

    @override
    def stem(self, index: int) -> str:
        name, _, row = self.key(index).rpartition(":")
        return f"{name.rpartition('.')[0]}-{row}"

    @override
    def label(self, index: int) -> int:
        return int(self.labels[index])

    @override
    def record(self, index: int) -> str:
        return f"{self.key(index)}\t{self.labels[index]}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "kept": OrderedDict()}

    def _group(self, index: int) -> int:
        return int(np.searchsorted(self.ends, index, side="right"))

    def _row(self, group: int, index: int) -> int:
        return index - (int(self.ends[group - 1]) if group else 0)

    def _value(self, column: str, index: int) -> Any:
        group = self._group(index)
        if group not in self.kept:
            assert self.blocks is not None
            while len(self.kept) > self.blocks.buffer:
                self.kept.popitem(last=False)
            columns = [name for name in (self.image_column, self.caption_column) if name is not None]
            number, own = self.groups[group]
            self.kept[group] = _Table(self.files[number]).group(own, columns)
        self.kept.move_to_end(group)
        return self.kept[group].column(column)[self._row(group, index)].as_py()


class _Table:
    """One file: its columns, and its rows group by group."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file = (_Parquet if path.suffix == ".parquet" else _Arrow)(path)
        except InputError:  # pyarrow is missing, not the file
            raise
        except (OSError, ValueError) as error:  # pyarrow's own are of these
            raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]}); get it again") from None
        self.rows: list[int] = self.file.rows
        self.names: list[str] = self.file.schema.names

    def column(self, name: str) -> list[Any]:
        return [
            value for group in range(len(self.rows)) for value in self.group(group, [name]).column(name).to_pylist()
        ]

    def group(self, group: int, columns: list[str]) -> Any:
        try:
            return self.file.read(group, columns)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{self.path} cannot be read ({str(error).splitlines()[0]}); get it again") from None

    def class_names(self, column: str | None) -> list[str]:
        """The names that Hugging Face's description of the columns gives to its numbers."""
        try:
            features = json.loads((self.file.schema.metadata or {})[b"huggingface"])["info"]["features"]
            names = features[column]["names"]
        except (KeyError, ValueError, TypeError):
            return []
        return [str(name) for name in names] if isinstance(names, list) else []


class _Parquet:
    def __init__(self, path: Path) -> None:
        self.file = _pyarrow("pyarrow.parquet").ParquetFile(str(path), memory_map=True)
        self.schema = self.file.schema_arrow
        self.rows = [self.file.metadata.row_group(group).num_rows for group in range(self.file.num_row_groups)]

    def read(self, group: int, columns: list[str]) -> Any:
        return self.file.read_row_group(group, columns=columns)


class _Arrow:
    """What ``save_to_disk`` writes (a stream of batches), or an Arrow file."""

    def __init__(self, path: Path) -> None:
        arrow = _pyarrow("pyarrow")
        source = arrow.memory_map(str(path))
        try:
            table = _pyarrow("pyarrow.ipc").open_stream(source).read_all()
        except ValueError:
            table = _pyarrow("pyarrow.ipc").open_file(source).read_all()
        self.schema, self.arrow = table.schema, arrow
        self.batches = table.to_batches()
        self.rows = [batch.num_rows for batch in self.batches]

    def read(self, group: int, columns: list[str]) -> Any:
        return self.arrow.Table.from_batches([self.batches[group]]).select(columns)


def _pyarrow(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            "data=huggingface needs pyarrow, which is not installed; pip install 'imtok[parquet]'"
        ) from None


def _column(
    file: Path, names: list[str], asked: str | None, usual: tuple[str, ...], what: str, required: bool = True
) -> str | None:
    name = asked if asked is not None else next((name for name in usual if name in names), None)
    if name in names or (name is None and not required):
        return name
    raise InputError(
        f"{file} has no column of {what}s{f' {asked}' if asked else ''}: there are {', '.join(names)}; "
        f"give data.{what}=COLUMN"
    )


def _numbered(
    values: list[Any], named: list[str], classes: list[str] | None, count: int
) -> tuple[list[str], np.ndarray]:
    """Names of the classes, and the class of every row, -1 where there is none."""
    if not values:
        return classes or [], np.full(count, -1, dtype=np.int64)
    if all(isinstance(value, str) for value in values):
        named = classes if classes is not None else sorted(set(values))
        number = {name: label for label, name in enumerate(named)}
        return named, np.array([number.get(value, -1) for value in values], dtype=np.int64)
    labels = [value if type(value) is int and value >= 0 else -1 for value in values]
    return named, np.array(labels, dtype=np.int64)
