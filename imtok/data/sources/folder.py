"""A tree of image files, as it lies on the disk."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Unpack

import numpy as np
import xxhash
from jaxtyping import Int64
from typing_extensions import override

from imtok.data.archives.index import require_same
from imtok.data.archives.members import MAX_LABEL_BYTES
from imtok.data.archives.names import Names, fold_array, printable
from imtok.data.archives.texts import as_text
from imtok.data.images import MAX_BYTES, Columns, Indexable, Origins, Source
from imtok.data.reading.headers import KINDS, SUFFIXES, nameless_kind, skipped, skipped_kind
from imtok.data.reading.reading import ReadingSettings
from imtok.data.sources.apart import NOWHERE
from imtok.data.sources.classes import number_classes, number_like, some, twins, unplaced
from imtok.data.sources.collection import Collection
from imtok.data.sources.metadata import TABLES, read_metadata
from imtok.errors import InputError

OTHERS = (b".npy", b".npz", b".tar", b".zip", b".tgz", b".tar.gz", b".parquet", b".arrow")  # that may hold pictures
ARRAYS = (".npy", ".npz")  # which are more often something about pictures, and named only where there are none

PARTS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}


class Folder(Collection):
    """Every picture below a folder; the first folder level is the class.

    Keys are paths relative to the folder. Hidden files are ignored, links are followed. Files that lie directly in
    the folder have no class (label -1), nor have files of ``val_path`` in a class that ``path`` does not have. A folder
    beside others that is empty, or holds nothing but pictures of other kinds, is a class without an image. A ``.txt``
    beside an image, of the same name, is its caption. A ``metadata.jsonl``, ``.csv`` or ``.parquet`` as in Hugging
    Face's image folders (``file_name``, a path from its own folder, and other columns) comes before both.

    Args:
        path: See :class:`Collection`.
        val_path: See :class:`Collection`.
        val_fraction: See :class:`Collection`.
        index: See :class:`Collection`.
        label: The column of classes in metadata; None = ``label`` if there is one, "" = none.
        caption: The column of texts or lists of texts in it; None = ``text``, ``caption`` or ``captions`` if there is
            one, "" = none. If a column is given, training samples have captions.
        **reading: See :class:`~imtok.data.reading.reading.Reading`.

    Raises:
        InputError: From its methods, if the folder is missing, cannot be read or holds no image.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("cat", "dog"):
        ...         (Path(folder) / name).mkdir()
        ...         Image.new("RGB", (40, 30)).save(Path(folder) / name / "1.png")
        ...     images = Folder(folder).evaluation(image_size=16)
        ...     [(images[0, index].key, images[0, index].label) for index in range(len(images))]
        [('cat/1.png', 0), ('dog/1.png', 1)]
    """

    kind = "files"

    def __init__(
        self,
        path: str | Path,
        val_path: str | Path | None = None,
        val_fraction: float = 0.05,
        index: str | Path | None = None,
        label: str | None = None,
        caption: str | None = None,
        **reading: Unpack[ReadingSettings],
    ) -> None:
        super().__init__(path, val_path, val_fraction, index, **reading)
        self.label, self.caption = label, caption

    @override
    def open(self, path: str, classes: list[str] | None, stored: Columns | None) -> Source:
        source = FileSource(Path(path), classes, self.label, self.caption)
        if stored is not None:
            require_same(stored, source.columns(), "names", "sizes", "file")
        return source


class FileSource(Indexable):
    """The image files below a folder, sorted by path.

    Args:
        folder: The folder.
        classes: Names of the classes; None = the folders on the first level, or what metadata names.
        label: See :class:`Folder`.
        caption: See :class:`Folder`.
        name: What errors call the folder: the key that it was given by.

    Raises:
        InputError: If it is missing, cannot be read or holds no image, or its metadata cannot be used.
    """

    kind = "files"

    def __init__(
        self,
        folder: Path,
        classes: list[str] | None = None,
        label: str | None = None,
        caption: str | None = None,
        name: str = "data.path",
    ) -> None:
        # List the files, and say what is passed over.
        if not folder.is_dir():
            reason = "is a file" if folder.exists() else "does not exist"
            raise InputError(f"{name}={folder} {reason}; give a folder of {KINDS} files")
        skips, others, tables = Counter[str](), Counter[str](), list[bytes]()
        try:
            found = sorted(_walk(os.fsencode(folder), b"", skips, others, (), tables))
        except OSError as error:
            raise InputError(f"{name}={folder} cannot be listed ({error.strerror}: {error.filename!r})") from None
        if not found:
            seen = ", ".join(f"{count} {suffix}" for suffix, count in (skips + others).most_common(3))
            held = f"only {seen}" if seen else "no image"
            raise InputError(f"{name}={folder} holds {held}; give a folder of {KINDS} files")
        self.folder, self.remarks = os.fsencode(folder), skipped(skips, str(folder))
        unread = [f"{count} {suffix}" for suffix, count in others.most_common() if suffix not in ARRAYS]
        if unread:
            self.remarks += (f"{folder} holds {', '.join(unread)} beside its images, and only the images are read",)
        # Names, sizes and places on the disk, without a Python object for each.
        self.names = Names([file.name for file in found])
        self.sizes = np.array([file.size for file in found], dtype=np.int64)
        self.files = np.array([(file.device, file.number) for file in found], dtype=np.uint64)
        # Captions and classes: of metadata if there is some, else of folders.
        about = None
        if tables or label or caption:
            about = read_metadata(self.folder, tables, self.names, label, caption, required=classes is None)
        self.written = None if about is None else about.captions
        self.remarks += () if about is None else about.remarks
        if about is not None and about.labels is not None:
            place = "{}: column {} of its metadata".format
            self.classes, self.labels = number_classes(
                about.labels, [], lambda at: place(self.names.text(at), label or "label")
            )
            if classes is not None:
                number_like(self, classes, str(folder), names=bool(self.classes))
            return
        self._number_folders(folder, classes)

    def _number_folders(self, folder: Path, classes: list[str] | None) -> None:
        """Take the first level of folders as classes."""
        levels = [name.split(b"/", 1)[0] if b"/" in name else None for name in self.names]
        present = {level for level in levels if level is not None}
        empty = _empty_classes(self.folder, present) if present else []
        self.classes = sorted({printable(level) for level in (*present, *empty)})
        number = {name: label for label, name in enumerate(self.classes)}
        labels = (-1 if level is None else number[printable(level)] for level in levels)
        self.labels = np.fromiter(labels, dtype=np.int64, count=len(levels))
        if present:
            self.remarks += unplaced(levels.count(None), str(folder))
        if len(present) == 1 and None not in levels and classes is None:
            self.remarks += self._lone(folder, printable(*present))
        if classes is None and empty:
            self.remarks += (f"{folder}: there is no image of class {some([printable(level) for level in empty])}",)
        if classes is None and {"train", "training"} & set(self.classes) and PARTS.issuperset(self.classes):
            self.remarks += (
                f"{folder}: {some(self.classes)} are taken as classes; data=imagenet takes them as splits",
            )
        if classes is None:
            alike = [f"{one!r} and {other!r}" for one, other in twins(self.classes)]
            self.remarks += (
                (f"{folder}: classes differ only in case or spelling: {', '.join(alike[:3])}",) if alike else ()
            )
        else:
            number_like(self, classes, str(folder), names=True)

    def _lone(self, folder: Path, name: str) -> tuple[str, ...]:
        """The remark on a single folder of a class that holds the folders that are meant."""
        inner = {printable(parts[1]) for parts in (own.split(b"/", 2) for own in self.names) if len(parts) > 2}
        if len(inner) < 2:
            return ()
        meant = f"data.path={folder / name} takes the {len(inner)} folders in it as classes: {some(sorted(inner))}"
        return (f"{folder}: all images are of one class, {name}; {meant}",)

    @override
    def __len__(self) -> int:
        return len(self.names)

    @override
    def columns(self) -> Columns:
        return {"names": self.names, "sizes": self.sizes}

    @override
    def read(self, index: int) -> bytes:
        data = self.start(index, MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise OSError(f"is larger than {MAX_BYTES} bytes")
        return data

    @override
    def start(self, index: int, count: int) -> bytes:
        with open(os.path.join(self.folder, self.names.raw(index)), "rb") as file:  # noqa: PTH118, PTH123, bytes paths
            return file.read(count)

    @override
    def key(self, index: int) -> str:
        return self.names.text(index)

    @override
    def caption(self, index: int) -> str | None:
        return next(iter(self.texts(index)), None)

    @override
    def texts(self, index: int) -> tuple[str, ...]:
        texts = b"" if self.written is None else self.written.raw(index)
        if texts:
            return tuple(json.loads(texts))
        stem = os.path.splitext(os.path.join(self.folder, self.names.raw(index)))[0]  # noqa: PTH118, PTH122
        for suffix in (b".txt", b".TXT"):
            try:
                with open(stem + suffix, "rb") as file:  # noqa: PTH123, bytes paths
                    data = file.read(MAX_LABEL_BYTES + 1)
            except OSError:
                continue
            if len(data) > MAX_LABEL_BYTES:
                name = printable(stem + suffix)
                raise InputError(
                    f"{name} is a caption of more than {MAX_LABEL_BYTES} bytes; shorten it or move it away"
                )
            text = as_text(data)
            return (text,) if text else ()
        return ()

    @override
    def origins(self) -> Origins:
        return np.concatenate([self.files, np.zeros((len(self), 1), np.uint64)], axis=1)

    @override
    def label(self, index: int) -> int:
        return int(self.labels[index])

    @override
    def record(self, index: int) -> str:
        return f"{self.key(index)}\t{self.sizes[index]}\t{self.labels[index]}"

    @override
    def records(self, indices: Int64[np.ndarray, " n"]) -> list[str]:
        rows = zip(self.names.texts(indices), self.sizes[indices].tolist(), self.labels[indices].tolist(), strict=True)
        return [f"{name}\t{size}\t{label}" for name, size, label in rows]

    @override
    def fold(self, digest: xxhash.xxh3_128) -> None:
        self.names.fold(digest)
        fold_array(digest, "sizes", self.sizes)
        fold_array(digest, "labels", np.asarray(self.labels, dtype=np.int64))


class _File(NamedTuple):
    """An image file: its path, its size in bytes, and the device and number that tell it from all others."""

    name: bytes
    size: int
    device: int
    number: int


def _walk(
    root: bytes,
    below: bytes,
    skips: Counter[str],
    others: Counter[str],
    above: tuple[tuple[int, int], ...],
    tables: list[bytes],
) -> Iterator[_File]:
    """Every image file, by its relative path; a link that leads back above itself is not followed.

    Args:
        root: The folder.
        below: The folder in it whose files come next, with a slash at its end.
        skips: Counts pictures that are not read, by kind.
        others: Counts data of other kinds.
        above: Which folders this one lies in.
        tables: Gets the relative paths of tables of metadata.
    """
    folder = os.path.join(root, below)  # noqa: PTH118, names need not be text
    status = os.stat(folder)  # noqa: PTH116
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            name = below + entry.name
            if _is_folder(entry):
                yield from _walk(root, name + b"/", skips, others, (*above, identity), tables)
            elif name.lower().endswith(SUFFIXES):
                if entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110
                    yield _File(name, -1, NOWHERE, 0)  # a link to nothing: a bad image, by name, and not one fewer
                elif entry.is_file():
                    found = entry.stat()
                    yield _File(name, found.st_size, found.st_dev, found.st_ino)
                else:
                    skips["pipe, socket or device"] += 1
            elif entry.name in TABLES and (entry.is_symlink() or entry.is_file()):
                tables.append(name)
            elif (kind := skipped_kind(entry.name) or _nameless(entry)) is not None:
                skips[kind] += 1
            elif other := next((suffix for suffix in OTHERS if name.lower().endswith(suffix)), None):
                others[other.decode()] += 1


def _is_folder(entry: "os.DirEntry[bytes]") -> bool:
    """Whether it is a folder or a link to one; a link to itself leads nowhere."""
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))  # noqa: PTH112


def _nameless(entry: "os.DirEntry[bytes]") -> str | None:
    """What a file without a suffix holds, if that is a picture."""
    if b"." in entry.name or not os.path.isfile(entry.path):  # noqa: PTH113, bytes paths
        return None
    try:
        with open(entry.path, "rb") as file:  # noqa: PTH123, bytes paths
            return nameless_kind(file.read(16))
    except OSError:
        return None


def _empty_classes(root: bytes, present: set[bytes]) -> list[bytes]:
    """Folders on the first level that are classes without an image: empty, or of pictures of other kinds."""
    found = list[bytes]()
    with os.scandir(root) as entries:
        bare = sorted(e.name for e in entries if e.name not in present and not e.name.startswith(b".") and e.is_dir())
    for name in bare:
        files = [file for *_, names in os.walk(os.path.join(root, name)) for file in names]  # noqa: PTH118, bytes paths
        if not files or any(map(skipped_kind, files)):
            found.append(name)
    return found
