"""Which columns of a table hold images, classes and captions, and whether they are of a type that can be read."""

from collections.abc import Sequence
from typing import Any

from imtok.data.sources.table_files import Field, TableFile, pyarrow
from imtok.errors import InputError

IMAGES = ("image", "img", "jpg", "png", "webp", "jpeg")  # what columns are called, most likely first
LISTS = ("images", "imgs")  # cannot be read, and are named in the error
LABELS = ("label", "labels", "fine_label", "class", "cls")


def image_column(table: TableFile, asked: str | None) -> str:
    """Name of the column of encoded images: bytes, or a struct with ``bytes``, in a column or in a struct.

    Args:
        table: The table.
        asked: The name that was given; None = the first usual one.

    Raises:
        InputError: If there is none, there are several, or it is of another type.
    """
    usual = [name for name in IMAGES if name in table.names]
    inside = [name for name, field in table.fields.items() if len(field.path) > 1 and field.path[-1] in IMAGES]
    found = [name for name in usual or inside if _is_image(table.fields[name].type)]
    if asked is None and not usual and len(found) > 1:
        raise InputError(f"{table.path} has several columns of images: {', '.join(found)}; give data.image=COLUMN")
    name = (
        asked if asked is not None else next((n for n in (*found, *usual, *inside, *LISTS) if n in table.fields), None)
    )
    name = _there(table, name, "image")
    if not _is_image(table.fields[name].type):
        others = [other for other, field in table.fields.items() if _is_image(field.type) and len(field.path) == 1]
        fix = f"give data.image={others[0]}" if others else "cast it to datasets.Image() and write the table again"
        kind = _shown(table.fields[name], table.feature(name))
        raise InputError(f"{table.path}: column {name} is {kind}, not one encoded image per row; {fix}")
    return name


def label_column(table: TableFile, asked: str | None, image: str) -> str | None:
    """Name of the column of classes: numbers, names, or true and false; None if there is none.

    Args:
        table: The table.
        asked: The name that was given; None = the first usual one beside the images, "" = none.
        image: The column of images.

    Raises:
        InputError: If it is not there, or of another type.
    """
    if asked == "":
        return None
    beside = image.rpartition(".")[0]
    usual = [*(f"{beside}.{name}" for name in LABELS if beside), *LABELS]
    name = asked if asked is not None else next((name for name in usual if name in table.fields), None)
    if name is None:
        return None
    name = _there(table, name, "label")
    if label_kind(table, name) is None:
        others = [other for other in table.names if other != image and label_kind(table, other) in ("names", "numbers")]
        kind = _shown(table.fields[name], table.feature(name))
        raise InputError(
            f"{table.path}: column {name} is {kind}, not one class per row; give data.label=COLUMN of "
            f"{', '.join(others) or 'numbers or names'}, or data.label='' for no classes"
        )
    return name


def label_kind(table: TableFile, name: str) -> str | None:
    """How a column gives classes: as "names", as "numbers", or "nothing" if all values are null; None = it cannot."""
    types, kind = pyarrow("pyarrow").types, _plain(table.fields[name].type)
    if _is_text(kind):
        return "names"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return "numbers"
    return "nothing" if types.is_null(kind) else None


def caption_column(table: TableFile, asked: str | None) -> str | None:
    """Name of the column of texts, one or a list of them in each row; InputError if it is of another type."""
    if asked is None:
        return None
    name, types = _there(table, asked, "caption"), pyarrow("pyarrow").types
    kind = _plain(table.fields[name].type)
    if not (_is_text(kind) or types.is_null(kind) or (_is_list(kind) and _is_text(_plain(kind.value_type)))):
        shown = _shown(table.fields[name], table.feature(name))
        raise InputError(
            f"{table.path}: column {name} is {shown}, neither text nor a list of texts; give data.caption=COLUMN"
        )
    return name


def require_alike(tables: Sequence[TableFile]) -> None:
    """Raise InputError that names two of the tables and what they differ in, unless all have the same columns."""
    first = tables[0]
    for table in tables[1:]:
        here, there = ({name for name in t.names if not name.startswith("__")} for t in (first, table))
        if here != there:
            says = [
                f"{own.path} has {', '.join(sorted(names))}"
                for own, names in ((first, here - there), (table, there - here))
                if names
            ]
            raise InputError(
                f"{table.path} has other columns than {first.path}: only {' and only '.join(says)}; give data.path of "
                "tables with the same columns"
            )


def require_same_labels(tables: Sequence[TableFile], name: str) -> list[str]:
    """The names of the classes; InputError unless all tables mean the same by their column of classes."""
    known = [table for table in tables if label_kind(table, name) != "nothing"]
    named = [table for table in known if table.class_names(name)]
    for first, table in [(known[0], table) for table in known[1:]] + [(named[0], table) for table in named[1:]]:
        if label_kind(first, name) != label_kind(table, name):
            kinds = [str(own.fields[name].type) for own in (first, table)]
            why = f"is {kinds[0]} in {first.path} and {kinds[1]} in {table.path}"
        elif named and first is named[0] and first.class_names(name) != table.class_names(name):
            why = f"has other class names in {first.path} than in {table.path}"
        else:
            continue
        raise InputError(f"column {name} {why}; give data.path of tables with the same classes")
    return named[0].class_names(name) if named else []


def require_bytes(table: TableFile, name: str) -> None:
    """Raise InputError that names the row unless the images themselves are in the table, and not only their paths."""
    if f"{name}.bytes" not in table.fields or f"{name}.path" not in table.fields:
        return
    row = 0
    for group, count in enumerate(table.rows):
        if table.empty(group, f"{name}.bytes") and not table.empty(group, f"{name}.path"):
            paths = table.group(group, [f"{name}.path"])[f"{name}.path"].to_pylist()
            at = next(at for at, path in enumerate(paths) if path is not None)
            raise InputError(
                f"{table.path}: row {row + at} of column {name} holds no image, only the path {paths[at]!r}; embed the "
                "files: dataset.with_format('arrow').map(datasets.table.embed_table_storage, batched=True), then "
                "write it again"
            )
        row += count


def _there(table: TableFile, name: str | None, what: str) -> str:
    if name is not None and name in table.fields:
        return name
    held = table.names if name else [f"{own} ({table.fields[own].type})" for own in table.names]
    raise InputError(
        f"{table.path} has no column of {what}s{f' {name}' if name else ''}: there are {', '.join(held)}; "
        f"give data.{what}=COLUMN"
    )


def _plain(kind: Any) -> Any:
    """The type of the values, however they are stored."""
    arrow = pyarrow("pyarrow")
    if isinstance(kind, arrow.BaseExtensionType):
        return _plain(kind.storage_type)
    return _plain(kind.value_type) if arrow.types.is_dictionary(kind) else kind


def _is_image(kind: Any) -> bool:
    types, kind = pyarrow("pyarrow").types, _plain(kind)
    if types.is_struct(kind):
        own = {part.name: part.type for part in kind}  # where all files are only paths their bytes have no type
        return "bytes" in own and (_is_bytes(own["bytes"]) or ("path" in own and types.is_null(own["bytes"])))
    return _is_bytes(kind)


def _is_bytes(kind: Any) -> bool:
    types = pyarrow("pyarrow").types
    return any(is_kind(kind) for is_kind in (types.is_binary, types.is_large_binary, types.is_binary_view))


def _is_text(kind: Any) -> bool:
    types = pyarrow("pyarrow").types
    return any(is_kind(kind) for is_kind in (types.is_string, types.is_large_string, types.is_string_view))


def _is_list(kind: Any) -> bool:
    types = pyarrow("pyarrow").types
    return any(is_kind(kind) for is_kind in (types.is_list, types.is_large_list, types.is_fixed_size_list))


def _shown(field: Field, feature: dict[str, Any]) -> str:
    """A type in words, with its name in pyarrow and in Hugging Face's description."""
    kind, types = _plain(field.type), pyarrow("pyarrow").types
    inner = kind
    while _is_list(inner):
        inner = _plain(inner.value_type)
    if _is_list(kind):
        numbers = types.is_integer(inner) or types.is_floating(inner)
        flat = "a list of numbers" if _plain(kind.value_type) == inner else "an array of numbers"
        what = "a list of images" if _is_image(inner) else flat if numbers else "a list"
    elif types.is_struct(kind):
        what = f"a struct of {', '.join(part.name for part in kind)}"
    else:
        what = "text" if _is_text(kind) else "bytes" if _is_bytes(kind) else "a column of its own type"
    names = [name for name in (str(field.type), feature.get("_type")) if isinstance(name, str)]
    return f"{what} ({', '.join(name if len(name) <= 80 else f'{name[:77]}...' for name in names)})"
