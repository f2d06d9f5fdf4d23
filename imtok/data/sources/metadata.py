"""Captions and classes from the tables that lie beside images in Hugging Face's image folders."""

import csv
import io
import json
import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imtok.data.archives.names import Names, printable
from imtok.data.sources.table_files import TableFile
from imtok.errors import InputError

TABLES = (b"metadata.jsonl", b"metadata.csv", b"metadata.parquet")
FILE = "file_name"
CAPTIONS = ("text", "caption", "captions")  # what columns of texts are called, most likely first


@dataclass(frozen=True)
class Metadata:
    """What tables say of the images below a folder.

    Attributes:
        labels: For each image, its value in the column of classes; None = there is no such column.
        captions: For each image, a list of texts as JSON, empty where there is none; None = there is no such column.
        remarks: Rows without an image, and images without a row.
    """

    labels: list[Any] | None
    captions: Names | None
    remarks: tuple[str, ...]


def read_metadata(
    folder: bytes,
    tables: Sequence[bytes],
    names: Names,
    label: str | None,
    caption: str | None,
    required: bool = True,
) -> Metadata:
    """Match the rows of tables with images by ``file_name``, a path from the folder of the table.

    Args:
        folder: The folder.
        tables: Relative paths of the tables.
        names: Relative paths of the images.
        label: The column of classes; None = ``label`` if there is one, "" = none.
        caption: The column of texts; None = ``text``, ``caption`` or ``captions`` if there is one, "" = none.
        required: Whether a column that was asked for must be there; if False, a missing one is remarked.

    Raises:
        InputError: If a table cannot be read, names a file twice, or lacks a column that was asked for.
    """
    place = {name: at for at, name in enumerate(names)}
    rows: dict[int, dict[str, Any]] = {}
    remarks, above = list[str](), list[bytes]()
    # Deeper tables come later, so that their rows replace those of the tables above.
    for table in sorted(tables, key=lambda table: (table.count(b"/"), table)):
        path, below = Path(os.fsdecode(os.path.join(folder, table))), posixpath.dirname(table)  # noqa: PTH118, bytes paths
        if below in above:
            raise InputError(f"{path} is the second table of metadata in its folder; keep one of them")
        own, strange = _own_rows(path, below, place)
        if own is None:
            remarks.append(f"{path} has no column {FILE}, so it is not read")
            continue
        above.append(below)
        rows |= own
        if strange:
            verb = "a file that is" if len(strange) == 1 else f"{len(strange)} files that are"
            remarks.append(f"{path} names {verb} not among the images: {printable(strange[0])}")
    columns = {column: None for row in rows.values() for column in row}
    asked = label is not None or caption is not None
    for what, given in (("classes", label), ("captions", caption)):
        if given and given not in columns and not required:
            remarks.append(f"{os.fsdecode(folder)} has no column {given} in its metadata: its images have no {what}")
    if not required:
        label, caption = (given if not given or given in columns else "" for given in (label, caption))
    label = _column(label, ("label",), columns, "label", folder)
    caption = _column(caption, CAPTIONS, columns, "caption", folder)
    others = [column for column in columns if column != FILE]
    if others and label is None and caption is None and not asked:
        remarks.append(
            f"{os.fsdecode(folder)}: no column of its metadata is read, of {', '.join(others)}; "
            "give data.caption=COLUMN or data.label=COLUMN"
        )
    # Images without a row.
    bare = [name for at, name in enumerate(names) if at not in rows and any(_is_below(name, own) for own in above)]
    if bare and (label or caption):
        verb = "an image has" if len(bare) == 1 else f"{len(bare)} images have"
        remarks.append(f"{os.fsdecode(folder)}: {verb} no row in a table of metadata: {printable(bare[0])}")
    values = None if label is None else [rows.get(at, {}).get(label) for at in range(len(names))]
    if values is not None and all(table.endswith(b".csv") for table in tables):
        values = _typed(values)
    texts = (
        None if caption is None else Names([_texts(rows.get(at, {}), caption, names, at) for at in range(len(names))])
    )
    return Metadata(values, texts, tuple(remarks))


def _own_rows(
    path: Path, below: bytes, place: dict[bytes, int]
) -> tuple[dict[int, dict[str, Any]] | None, list[bytes]]:
    """Rows by the position of their image, and named files that are not images; None without a column of names."""
    rows, strange, seen = dict[int, dict[str, Any]](), list[bytes](), set[bytes]()
    reader = {".jsonl": json_rows, ".csv": csv_rows, ".parquet": _parquet_rows}[path.suffix]
    for where, row in reader(path):
        if FILE not in row and not seen:
            return None, []
        name = row.get(FILE)
        if not isinstance(name, str) or not name:
            raise InputError(f"{path}: {where} has no {FILE}; correct or remove it")
        own = posixpath.normpath(posixpath.join(below, name.encode("utf-8", "surrogateescape")))
        if own in seen:
            raise InputError(f"{path}: {where} names {printable(own)} a second time; keep one row for each image")
        seen.add(own)
        if own in place:
            rows[place[own]] = row
        else:
            strange.append(own)
    return rows, strange


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects in the lines of a file, each with its place; InputError that names a line without one."""
    for number, line in enumerate(_lines(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number} is not a JSON object; correct or remove it")
        yield f"line {number}", row


def csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a table by column, each with its place; InputError that names a broken line."""
    reader = csv.DictReader(io.StringIO(_lines(path), newline=""), strict=True, skipinitialspace=True)
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num + 1} is broken ({error}); correct or remove it") from None
    for number, row in rows:
        if None in row or None in row.values():
            raise InputError(f"{path}: line {number} has other fields than the first line; correct or remove it")
    for number, row in rows:
        yield f"line {number}", {column: value or None for column, value in row.items()}


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    table = TableFile(path)
    columns = [table.column(name) for name in table.names]
    for number, values in enumerate(zip(*columns, strict=True)):
        yield f"row {number}", dict(zip(table.names, values, strict=True))


def _lines(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InputError(f"{path} cannot be read ({reason}); write it again") from None


def _typed(texts: list[Any]) -> list[Any]:
    """Cells of a column as numbers where all of them are, as other readers of such tables take them."""
    try:
        return [None if text is None else float(text) for text in texts]
    except ValueError:
        return texts


def _column(
    asked: str | None, usual: tuple[str, ...], columns: dict[str, None], what: str, folder: bytes
) -> str | None:
    if asked is None:
        return next((name for name in usual if name in columns), None)
    if asked and asked not in columns:
        held = f"there are {', '.join(columns)}" if columns else "there is no table with rows of images"
        raise InputError(
            f"data.{what}={asked} is not a column of the metadata in {os.fsdecode(folder)}: {held}; give "
            f"data.{what}=COLUMN"
        )
    return asked or None


def _texts(row: dict[str, Any], column: str, names: Names, at: int) -> bytes:
    value = row.get(column)
    texts = [value] if isinstance(value, str) else [] if value is None or value != value else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(
            f"{names.text(at)}: column {column} of its metadata is neither text nor a list of texts; give "
            "data.caption=COLUMN, or data.caption='' for none"
        )
    return json.dumps(texts).encode() if texts else b""


def _is_below(name: bytes, folder: bytes) -> bool:
    return not folder or name.startswith(folder + b"/")
