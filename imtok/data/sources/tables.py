"""The images in the rows of tables, as Hugging Face data sets lie on a disk."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from imtok.data.images import MAX_BYTES, Origins, Source
from imtok.data.order.sampler import Blocks
from imtok.data.sources.apart import file_origins
from imtok.data.sources.classes import number_classes, number_like, require_named, some
from imtok.data.sources.columns import (
    caption_column,
    image_column,
    label_column,
    label_kind,
    require_alike,
    require_bytes,
    require_same_labels,
)
from imtok.data.sources.table_files import TableFile
from imtok.errors import InputError


class NoRowError(InputError):
    """Tables without a row."""


class TableSource(Source):
    """The images of a column, file by file and row by row; a group of rows is read at a time.

    Args:
        files: Parquet or Arrow files, all with the same columns.
        mixed: Mix so many groups of rows at a time in training.
        image: Name of the column of images: bytes, or a struct with ``bytes``; ``sample.image`` is the field of a
            struct. None = the first usual name.
        label: Name of the column of classes, numbers or names; None = the first usual name, if there is one; "" = none.
        caption: Name of a column of texts, or of lists of texts; None = there are no captions.
        like: The images to train on, where these are others: classes are numbered like theirs, and a column of classes
            or of captions may be missing, which is remarked. None = by their own names.
        names: What the images' keys start with, for each file; None = the name of the file.

    Raises:
        NoRowError: If none of the files has a row.
        InputError: If a file cannot be read or has other columns than the others, a column is missing or of another
            type, images are not in the table, or classes are not of the kind of ``like``.
    """

    def __init__(
        self,
        files: list[Path],
        mixed: int = 8,
        image: str | None = None,
        label: str | None = None,
        caption: str | None = None,
        like: "TableSource | None" = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.files, self.names = files, list(names) if names is not None else [file.name for file in files]
        tables = [TableFile(file) for file in files]
        # Which columns: the first file says it, and all others must have them too.
        require_alike(tables)
        if like is not None:
            label = like.label_column if like.label_column in tables[0].fields else label
            label = "" if label and label not in tables[0].fields else label
            caption = caption if caption in tables[0].fields else None
        self.image_column = image_column(tables[0], image)
        self.label_column = label_column(tables[0], label, self.image_column)
        self.caption_column = caption_column(tables[0], caption)
        for table in tables[1:]:
            image_column(table, self.image_column)
            label_column(table, self.label_column or "", self.image_column)
            caption_column(table, self.caption_column)
        named = [] if self.label_column is None else require_same_labels(tables, self.label_column)
        self.label_kind = None if self.label_column is None else label_kind(tables[0], self.label_column)
        # Where the rows are.
        self.groups = [(number, group) for number, table in enumerate(tables) for group in range(len(table.rows))]
        sizes = [rows for table in tables for rows in table.rows]
        self.ends = np.cumsum(sizes, dtype=np.int64)
        self.starts = np.concatenate([np.concatenate([[0], np.cumsum(t.rows)[:-1]]) for t in tables if t.rows] or [[0]])
        if not sum(sizes):
            raise NoRowError(f"no row is in {some([str(file) for file in files])}; give a table with images")
        empty = [str(table.path) for table in tables if not sum(table.rows)]
        if empty:
            self.remarks += (f"no row is in {some(empty)}",)
        for table in tables:
            require_bytes(table, self.image_column)
        self.blocks = Blocks(tuple(sizes), mixed)
        self.kept: OrderedDict[int, Any] = OrderedDict()
        values = [value for table in tables for value in table.column(self.label_column)] if self.label_column else []
        values = values if self.label_column else [None] * len(self)
        self.classes, self.labels = number_classes(values, named, self._label_place)
        require_named(self)
        if like is not None:
            self._number_like(like)

    @override
    def __len__(self) -> int:
        return int(self.ends[-1])

    @override
    def read(self, index: int) -> bytes:
        found = self._value(self.image_column, index)
        value = found.get("bytes") if isinstance(found, dict) else found
        if not isinstance(value, bytes):
            path = found.get("path") if isinstance(found, dict) else None
            raise OSError("is null in the table" if path is None else f"is only the path {path!r} in the table")
        if len(value) > MAX_BYTES:
            raise OSError(f"is larger than {MAX_BYTES} bytes")
        return value

    @override
    def caption(self, index: int) -> str | None:
        return next(iter(self.texts(index)), None)

    @override
    def texts(self, index: int) -> tuple[str, ...]:
        value = None if self.caption_column is None else self._value(self.caption_column, index)
        return tuple(text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str))

    @override
    def key(self, index: int) -> str:
        group = self._group(index)
        name = self.names[self.groups[group][0]]
        return f"{name}:{int(self.starts[group]) + self._row(group, index):07d}"

    @override
    def stem(self, index: int) -> str:
        name, _, row = self.key(index).rpartition(":")
        return f"{name.rpartition('.')[0]}-{row}"

    @override
    def origins(self) -> Origins:
        groups = np.searchsorted(self.ends, np.arange(len(self)), side="right")
        origins = file_origins(self.files)[np.array([number for number, _ in self.groups])[groups]]
        before = np.concatenate([[0], self.ends])[groups]
        origins[:, 2] = self.starts[groups] + np.arange(len(self)) - before
        return origins

    @override
    def label(self, index: int) -> int:
        return int(self.labels[index])

    @override
    def record(self, index: int) -> str:
        return f"{self.key(index)}\t{self.labels[index]}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "kept": OrderedDict()}

    def _number_like(self, like: "TableSource") -> None:
        """Take on the classes of the images to train on, and remark what these have and the images here have not."""
        for what, theirs, ours in (
            ("classes", like.label_column, self.label_column),
            ("captions", like.caption_column, self.caption_column),
        ):
            if theirs is not None and ours is None:
                self.remarks += (f"{self.files[0]} has no column {theirs}: its images have no {what}",)
        kinds = {like.label_kind, self.label_kind}
        if kinds == {"names", "numbers"} and bool(like.classes) != bool(self.classes):
            raise InputError(
                f"{self.files[0]}: column {self.label_column} holds {self.label_kind} of classes, and column "
                f"{like.label_column} of {like.files[0]} holds {like.label_kind}; give data.label of one kind"
            )
        if self.label_column is None:
            self.classes = like.classes
        else:
            number_like(self, like.classes, str(self.files[0]), names=self.label_kind == "names")

    def _group(self, index: int) -> int:
        return int(np.searchsorted(self.ends, index, side="right"))

    def _row(self, group: int, index: int) -> int:
        return index - (int(self.ends[group - 1]) if group else 0)

    def _label_place(self, index: int) -> str:
        group = self._group(index)
        row = int(self.starts[group]) + self._row(group, index)
        return f"{self.files[self.groups[group][0]]}: column {self.label_column}, row {row}"

    def _value(self, column: str, index: int) -> Any:
        group = self._group(index)
        if group not in self.kept:
            assert self.blocks is not None
            while len(self.kept) > self.blocks.buffer:
                self.kept.popitem(last=False)
            columns = [name for name in (self.image_column, self.caption_column) if name is not None]
            number, own = self.groups[group]
            self.kept[group] = TableFile(self.files[number]).group(own, columns)
        self.kept.move_to_end(group)
        return self.kept[group][column][self._row(group, index)].as_py()
