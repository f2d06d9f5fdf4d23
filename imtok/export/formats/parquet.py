"""Parquet: a row per view, for pandas, Hugging Face trainers, torchtitan and anything with columns."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from typing_extensions import override

from imtok.errors import InputError
from imtok.export.formats.base import Format, Row, rows
from imtok.export.sequences import Place, Sequencing
from imtok.export.store import TokenStore
from imtok.files import canonical_json


class Parquet(Format):
    """``data/train-00000-of-00001.parquet``, ...: columns ``key``, ``label``, ``view``, ``input_ids`` and ``length``.

    ``input_ids`` is a list of int32 (int64 where the vocabulary needs it) with ``begin`` and ``end``. An image that
    leaves tokens out at its end has a shorter list. Where images have captions there is a column ``caption``,
    and where some have several a column ``captions`` of all of them.

    Args:
        slots: What becomes of several slots: "interleave", "shared", "combine", or None where there is one.
        rows_per_file: Views per file, at least 1.
        offset: Added to every id: the size of a text vocabulary, say.
        begin: A number before each image; None = none.
        end: A number after each image; None = none.

    Raises:
        ValueError: If ``rows_per_file`` is not positive, or another number is negative.
    """

    def __init__(
        self,
        slots: str | None = None,
        rows_per_file: int = 500_000,
        offset: int = 0,
        begin: int | None = None,
        end: int | None = None,
    ) -> None:
        if rows_per_file < 1:
            raise ValueError(f"rows_per_file must be at least 1, got {rows_per_file}")
        self.slots, self.rows_per_file, self.place = slots, rows_per_file, Place(offset, begin, end).check()

    @override
    def check(self, store: TokenStore, folder: Path) -> None:
        Sequencing.of(store, self.slots, self.place)
        arrow()

    @override
    def write(self, store: TokenStore, folder: Path) -> dict[str, Any]:
        pyarrow, parquet = arrow()
        sequencing = Sequencing.of(store, self.slots, self.place)
        wide = pyarrow.int32() if sequencing.size <= 2**31 else pyarrow.int64()
        fields = [
            ("key", pyarrow.string()),
            ("label", pyarrow.int64()),
            ("view", pyarrow.int32()),
            ("input_ids", pyarrow.list_(wide)),
            ("length", pyarrow.int32()),
        ]
        if store.captioned:
            fields.append(("caption", pyarrow.string()))
        if store.has_several_texts:
            fields.append(("captions", pyarrow.list_(pyarrow.string())))
        schema = pyarrow.schema(fields, metadata=self.metadata(store, sequencing))
        (folder / "data").mkdir()
        total = len(store) * store.views
        files = -(-total // self.rows_per_file)
        source = _columns(store, sequencing)
        for number in range(files):
            path = folder / "data" / f"train-{number:05d}-of-{files:05d}.parquet"
            left = min(self.rows_per_file, total - number * self.rows_per_file)
            with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
                while left:
                    part = [next(source) for _ in range(min(left, 8192))]
                    writer.write_table(pyarrow.Table.from_pylist(part, schema=schema))
                    left -= len(part)
        notes = [f"{total} rows in {files} files, vocabulary {sequencing.size}"]
        if sequencing.offset:
            notes.append(f"image tokens are the numbers {sequencing.offset} to {sequencing.top - 1}")
        return {"sequence": sequencing.about, "notes": notes}

    def metadata(self, store: TokenStore, sequencing: Sequencing) -> dict[str, str]:
        """What the schema of each file says besides."""
        return {"imtok": canonical_json({"sequence": sequencing.about, "classes": store.classes})}


def _columns(store: TokenStore, sequencing: Sequencing) -> Iterator[dict[str, Any]]:
    for row in rows(store, sequencing):
        yield from _views(row, sequencing)


def _views(row: Row, sequencing: Sequencing) -> Iterator[dict[str, Any]]:
    image = {"key": _text(row.key), "label": row.label, "caption": _text(row.caption)}
    image["captions"] = list(map(_text, row.texts))
    for view, (tokens, length) in enumerate(zip(row.views, row.lengths.tolist(), strict=True)):
        input_ids = sequencing.frame(tokens[:length]).tolist()
        yield {**image, "view": view, "input_ids": input_ids, "length": len(input_ids)}


def _text(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()  # columns are UTF-8, names of files need not be


def arrow() -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet.

    Raises:
        InputError: If they are not installed.
    """
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise InputError("this format needs pyarrow, which is not installed; pip install 'imtok[parquet]'") from None
