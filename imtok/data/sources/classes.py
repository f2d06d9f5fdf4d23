"""Turns a column of labels into class numbers."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable
from unicodedata import normalize

import numpy as np
from jaxtyping import Int64

from imtok.data.archives.names import printable
from imtok.errors import InputError

MOST = 2**63  # labels are int64


def number_classes(
    values: Sequence[object], named: list[str], place: Callable[[int], str]
) -> tuple[list[str], Int64[np.ndarray, " rows"]]:
    """Names of the classes, and the class of every row, -1 where there is none.

    Args:
        values: Row by row: a name, a number without a fraction, or True and False; None or NaN where there is no class,
            and so is a number below 0.
        named: What the numbers are called; empty = nothing.
        place: Says where the value of a row stands.

    Raises:
        InputError: If a value is none of these, or names and numbers are mixed.

    Example:
        >>> number_classes(["a", "c", None, "a"], [], str)
        (['a', 'c'], array([ 0,  1, -1,  0]))
        >>> number_classes([2.0, float("nan")], [], str)
        ([], array([ 2, -1]))
    """
    values = [None if value != value else value for value in values]  # NaN alone is unlike itself
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        named, values, kinds = (
            ["False", "True"],
            [value if value is None else int(bool(value)) for value in values],
            {int},
        )
    if str in kinds:
        return _names(values, place)
    labels = np.array([_number(value, place, row) for row, value in enumerate(values)], dtype=np.int64)
    return named, labels


@runtime_checkable
class Labelled(Protocol):
    """Images whose labels are positions in ``classes``."""

    classes: list[str]
    labels: Int64[np.ndarray, " images"]
    remarks: tuple[str, ...]

    def key(self, index: int, /) -> str:
        """The name of an image."""
        ...


def number_like(
    source: Labelled,
    classes: list[str],
    name: str,
    names: bool = False,
    lacking: str = "the training images lack",
) -> None:
    """Renumber labels by the classes of the training images; a class that these lack becomes -1.

    Numbers stay as they are where one of the two has no names for them. Classes that only one of the two sets has
    images of are remarked.

    Args:
        source: Images that are not trained on.
        classes: Those of the images that are.
        name: What remarks call ``source``.
        names: Classes of ``source`` are written as names, and its numbers mean nothing by themselves.
        lacking: Subject and verb of the remark on names that are not among ``classes``.

    Raises:
        InputError: If a number is beyond the names of the classes.
    """
    own, labels = source.classes, source.labels
    if not classes:
        if names:
            source.labels, source.classes = np.full_like(labels, -1), []
        return
    own = spelled_like(own, classes)
    if own and own != classes:
        source.labels = renumber(labels, own, classes)
    source.classes = classes
    require_named(source)
    # What only one of the two has.
    seen = np.unique(labels[labels >= 0]).tolist()
    found = {(own or classes)[label] for label in seen}
    new = sorted(found - set(classes))
    if new:
        source.remarks += (f"{name}: images of class {some(new)} have no class, because {lacking} it",)
    absent = [known for known in classes if known not in found]
    if absent and found - set(new):
        source.remarks += (f"{name}: there is no image of class {some(absent)}",)
    if not found:
        source.remarks += (unclassed(name),)


def spelled_like(names: list[str], others: list[str]) -> list[str]:
    r"""Names as others spell them, where the two differ in nothing but the code points of their letters.

    macOS stores an accent beside its letter, others both as one: such folders are of one class.

    Example:
        >>> spelled_like(["cafe\u0301", "tea"], ["caf\u00e9"]) == ["caf\u00e9", "tea"]
        True
    """
    known, spelling = set(others), {normalize("NFC", other): other for other in others}
    return [name if name in known else spelling.get(normalize("NFC", name), name) for name in names]


def twins(classes: list[str]) -> list[tuple[str, str]]:
    """Pairs of classes whose names differ only in case or in the code points of their letters.

    Example:
        >>> twins(["Cat", "cat", "dog"])
        [('Cat', 'cat')]
    """
    first, found = dict[str, str](), list[tuple[str, str]]()
    for name in classes:
        other = first.setdefault(normalize("NFC", name).casefold(), name)
        if other != name:
            found.append((other, name))
    return found


def unclassed(name: str) -> str:
    """The remark on images that have no class where those that are trained on have some."""
    return f"{name}: no image has a class"


def unplaced(count: int, name: str) -> tuple[str, ...]:
    """The remark on so many images that lie beside the folders of classes; none if there are none."""
    what, verb = ("an image that lies", "has") if count == 1 else (f"{count} images that lie", "have")
    return (f"{name}: {what} in no folder of a class {verb} no class",) if count else ()


def require_named(source: Labelled) -> None:
    """Raise InputError that names the first image whose class is beyond the names of the classes, if these have any."""
    count = len(source.classes)
    beyond = np.flatnonzero(source.labels >= count).tolist() if count else []
    if beyond:
        at = beyond[0]
        raise InputError(
            f"{source.key(at)} has class {source.labels[at]}, and the classes have names from 0 to {count - 1} "
            f"({some(source.classes)}); name all classes, or mend the label"
        )


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are.

    Example:
        >>> some(["a", "b"]), some(["a", "b", "c", "d", "e"])
        ('a and b', 'a, b, c and 2 more')
    """
    shown = list(names[:3]) if len(names) > 4 else list(names)
    last = f"{len(names) - 3} more" if len(names) > 4 else shown.pop()
    return f"{', '.join(shown)} and {last}" if shown else last


def renumber(labels: Int64[np.ndarray, " rows"], named: list[str], classes: list[str]) -> Int64[np.ndarray, " rows"]:
    """Positions in ``named`` as positions in ``classes``; -1 for a name that is not there.

    Example:
        >>> renumber(np.array([0, 1, 2, -1]), ["a", "c", "x"], ["a", "b", "c"])
        array([ 0,  2, -1, -1])
    """
    number = {name: label for label, name in enumerate(classes)}
    table = np.array([*(number.get(name, -1) for name in named), -1], dtype=np.int64)
    return table[np.where((labels >= 0) & (labels < len(named)), labels, len(named))]


def _names(values: Sequence[object], place: Callable[[int], str]) -> tuple[list[str], Int64[np.ndarray, " rows"]]:
    other = next((row for row, value in enumerate(values) if value is not None and not isinstance(value, str)), None)
    if other is not None:
        raise InputError(f"{place(other)} is {_shown(values[other])}, but other labels are names; give one kind")
    classes = sorted({value for value in values if isinstance(value, str)})
    number = {name: label for label, name in enumerate(classes)}
    return classes, np.array([number.get(str(value), -1) if value is not None else -1 for value in values], np.int64)


def _number(value: object, place: Callable[[int], str], row: int) -> int:
    if value is None:
        return -1
    whole = (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, float) and value.is_integer()
    )
    if not whole or int(value) >= MOST:  # type: ignore[call-overload], it is a number then
        raise InputError(f"{place(row)} is {_shown(value)}, which is not a class; give numbers from 0, or names")
    return max(int(value), -1)  # type: ignore[call-overload]


def _shown(value: object) -> str:
    text = repr(value)
    return printable((text if len(text) <= 60 else f"{text[:60]}...").encode(errors="backslashreplace"))
