"""Writes one tar archive whose bytes are a function of what is put into it, and which appears whole or not at all."""

import hashlib
import os
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Any

from webdataset.writer import TarWriter

from imtok.files import flush


def room(fields: dict[str, bytes]) -> int:
    """Bytes that the fields of a sample take in an archive."""
    return sum(tarfile.BLOCKSIZE + len(data) + -len(data) % tarfile.BLOCKSIZE for data in fields.values())


class Archive:
    """A tar archive under way, beside its place; used in a ``with``.

    It is written by webdataset's writer, without times and owners: the same samples are the same bytes everywhere.

    Args:
        path: Where it will be. What a killed process left there half-written is overwritten.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Archive(Path(folder) / "0.tar") as archive:
        ...         archive.add("1", {"txt": b"a cat"})
        ...         digest = archive.end()
        ...         archive.publish()
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['0.tar']
    """

    def __init__(self, path: Path) -> None:
        self.path, self.aside = path, path.with_name(f".{path.name}.tmp")
        self.file = self.aside.open("wb")
        self.digest, self.written = hashlib.sha256(), 0
        target: Any = self  # of a file it only needs write
        self.writer = TarWriter(target, user="", group="", mode=0o644, mtime=0, encoder=False)
        self.writer.tarstream.format = tarfile.USTAR_FORMAT  # its argument for this is not handed on

    @property
    def size(self) -> int:
        """Its bytes so far."""
        return self.writer.tarstream.offset

    def __enter__(self) -> "Archive":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        self.aside.unlink(missing_ok=True)

    def add(self, key: str, fields: dict[str, bytes]) -> None:
        """Put a sample into it, its fields in the order of their names."""
        self.writer.write({"__key__": key, **fields})

    def write(self, data: bytes) -> int:
        """Take bytes of the archive from its writer; none after a failure, when that still wants to end it."""
        if not self.file.closed:
            self.file.write(data)
            self.digest.update(data)
            self.written += len(data)
        return len(data)

    def end(self) -> str:
        """End it and flush it to the disk; returns its sha256. ``written`` is its size then."""
        self.writer.close()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        return self.digest.hexdigest()

    def publish(self) -> None:
        """Rename it into place, once its size and hash are noted: then those of every archive with a name are."""
        self.aside.replace(self.path)
        flush(self.path.parent)
