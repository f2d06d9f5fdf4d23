"""Writes one tar archive whose bytes are a function of what is put into it, and which appears whole or not at all."""

import hashlib
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from imtok.files import flush

RECORD = 20 * tarfile.BLOCKSIZE  # archives end at a multiple of this


def room(members: dict[str, bytes]) -> int:
    """Bytes that members take in an archive."""
    return sum(tarfile.BLOCKSIZE + len(data) + -len(data) % tarfile.BLOCKSIZE for data in members.values())


class Archive:
    """A tar archive under way, beside its place; used in a ``with``.

    Args:
        path: Where it will be. What a killed process left there half-written is overwritten.

    Attributes:
        bytes: Its size so far.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Archive(Path(folder) / "0.tar") as archive:
        ...         archive.add({"1.txt": b"a cat"})
        ...         digest = archive.finish(before=lambda digest, size: None)
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['0.tar']
    """

    def __init__(self, path: Path) -> None:
        self.path, self.aside = path, path.with_name(f".{path.name}.tmp")
        self.file = self.aside.open("wb")
        self.digest, self.bytes = hashlib.sha256(), 0

    def __enter__(self) -> "Archive":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        self.aside.unlink(missing_ok=True)

    def add(self, members: dict[str, bytes]) -> None:
        """Put the members of a sample into it, in the order of their names."""
        for name, data in sorted(members.items()):
            about = tarfile.TarInfo(name)  # no time, no owner: the same bytes on every machine
            about.size = len(data)
            self._write(about.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE))

    def finish(self, before: Callable[[str, int], None]) -> str:
        """End it, flush it to the disk and rename it into place.

        Args:
            before: Called with its sha256 and size when it is whole, before it takes its name: who notes these there
                knows every archive that has one.

        Returns:
            Its sha256.
        """
        end = 2 * tarfile.BLOCKSIZE
        self._write(bytes(end + -(self.bytes + end) % RECORD))
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        digest = self.digest.hexdigest()
        before(digest, self.bytes)
        self.aside.replace(self.path)
        flush(self.path.parent)
        return digest

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.bytes += len(data)
