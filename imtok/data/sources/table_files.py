"""Parquet and Arrow files: their columns, and their rows group by group."""

import importlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from imtok.errors import InputError

CONTINUES = b"\xff\xff\xff\xff"  # before each part of a stream of Arrow batches, and with a length of 0 at its end


class Field(NamedTuple):
    """A column, or a field of a struct in one: where it is, and its type as pyarrow knows it."""

    path: tuple[str, ...]
    type: Any


class TableFile:
    """One file.

    Args:
        path: Ends in ``.parquet``, or it is an Arrow file, or what ``save_to_disk`` writes.

    Attributes:
        rows: Number of rows of each group of them.
        names: The columns.
        fields: Columns by name, and then fields of structs by dotted name: ``sample.image``.

    Raises:
        InputError: If it cannot be read, or pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file = (_Parquet if path.suffix.lower() == ".parquet" else _Arrow)(path)
        except InputError:  # pyarrow is missing, not the file
            raise
        except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's own are of these
            raise _unreadable(path, error) from None
        self.rows: list[int] = self.file.rows
        self.names: list[str] = self.file.schema.names
        self.fields = _fields(self.file.schema)

    def column(self, name: str) -> list[Any]:
        """All values of a column, as Python's own."""
        return [value for group in range(len(self.rows)) for value in self.group(group, [name])[name].to_pylist()]

    def group(self, group: int, columns: list[str]) -> dict[str, Any]:
        """Some columns of a group of rows, by name; InputError if they cannot be read."""
        paths = {name: self.fields[name].path for name in columns}
        try:
            table = self.file.read(group, list(paths.values()))
            return {name: _inside(table.column(path[0]), path[1:]) for name, path in paths.items()}
        except (OSError, ValueError, KeyError, NotImplementedError) as error:
            raise _unreadable(self.path, error) from None

    def empty(self, group: int, name: str) -> bool:
        """Whether all values of a field in a group of rows are null; nothing but the file's own counts is read."""
        field, count = self.fields[name], self.rows[group]
        return count > 0 and (
            pyarrow("pyarrow").types.is_null(field.type) or self.file.nulls(group, field.path) == count
        )

    def feature(self, name: str) -> dict[str, Any]:
        """What Hugging Face's description of the columns says of one; empty where it says nothing."""
        try:
            found = json.loads((self.file.schema.metadata or {})[b"huggingface"])["info"]["features"]
            for part in self.fields[name].path:
                found = found[part]
        except (KeyError, ValueError, TypeError):
            return {}
        return found if isinstance(found, dict) else {}

    def class_names(self, name: str) -> list[str]:
        """The names that it gives to the numbers of a column."""
        names = self.feature(name).get("names")
        return [str(name) for name in names] if isinstance(names, list) else []


class _Parquet:
    def __init__(self, path: Path) -> None:
        self.file = pyarrow("pyarrow.parquet").ParquetFile(str(path), memory_map=True)
        self.schema = self.file.schema_arrow
        self.rows = [self.file.metadata.row_group(group).num_rows for group in range(self.file.num_row_groups)]

    def read(self, group: int, paths: list[tuple[str, ...]]) -> Any:
        return self.file.read_row_group(group, columns=[".".join(path) for path in paths])

    def nulls(self, group: int, path: tuple[str, ...]) -> int:
        about = self.file.metadata.row_group(group)
        for number in range(about.num_columns):
            column = about.column(number)
            if column.path_in_schema == ".".join(path):
                counts = column.statistics
                return counts.null_count if counts is not None and counts.has_null_count else 0
        return 0


class _Arrow:
    """What ``save_to_disk`` writes (a stream of batches), or an Arrow file."""

    def __init__(self, path: Path) -> None:
        arrow = pyarrow("pyarrow")
        source = arrow.memory_map(str(path))
        try:
            table = pyarrow("pyarrow.ipc").open_stream(source).read_all()
            if source.read_at(4, 0) == CONTINUES and source.read_at(8, source.size() - 8) != CONTINUES + bytes(4):
                raise OSError("it has no end mark, so that rows may be missing")
        except ValueError:
            table = pyarrow("pyarrow.ipc").open_file(source).read_all()
        self.schema, self.arrow = table.schema, arrow
        self.batches = table.to_batches()
        self.rows = [batch.num_rows for batch in self.batches]

    def read(self, group: int, paths: list[tuple[str, ...]]) -> Any:
        return self.arrow.Table.from_batches([self.batches[group]]).select(list(dict.fromkeys(p[0] for p in paths)))

    def nulls(self, group: int, path: tuple[str, ...]) -> int:
        return _inside(self.read(group, [path]).column(path[0]), path[1:]).null_count


def pyarrow(name: str) -> Any:
    """One of pyarrow's modules; InputError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            "data=huggingface needs pyarrow, which is not installed; pip install 'imtok[parquet]'"
        ) from None


def _fields(schema: Any) -> dict[str, Field]:
    arrow = pyarrow("pyarrow")
    found = {field.name: Field((field.name,), field.type) for field in schema}
    left = list(found.items())
    for name, field in left:  # it grows as it goes on: what lies deeper comes later
        kind = field.type.storage_type if isinstance(field.type, arrow.BaseExtensionType) else field.type
        if arrow.types.is_struct(kind):
            inner = [(f"{name}.{part.name}", Field((*field.path, part.name), part.type)) for part in kind]
            left += [(inside, own) for inside, own in inner if inside not in found]
            found |= {inside: own for inside, own in inner if inside not in found}
    return found


def _inside(column: Any, path: tuple[str, ...]) -> Any:
    return pyarrow("pyarrow.compute").struct_field(column, list(path)) if path else column


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} cannot be read ({str(error).splitlines()[0]}); get it again")
