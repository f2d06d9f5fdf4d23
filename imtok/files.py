"""Files and folders that appear whole or not at all, and the hashes that show it."""

import contextlib
import glob
import hashlib
import json
import logging
import os
import shutil
import socket
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from typing_extensions import Buffer

from imtok.errors import InputError
from imtok.system import on_windows, require_posix

log = logging.getLogger(__name__)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(path: Path) -> dict[str, Any]:
    """A file's size in ``bytes`` and its ``sha256``, as manifests say them."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def canonical_json(value: Any) -> str:
    """Plain values as JSON, the same text for the same values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest with the hash of its own values as ``sha256``: what it says of others is only as good as itself."""
    return {**manifest, "sha256": _digest(manifest)}


def is_sealed(manifest: dict[str, Any]) -> bool:
    """Whether a manifest still says what it said when it was sealed."""
    try:
        return manifest.get("sha256") == _digest({name: value for name, value in manifest.items() if name != "sha256"})
    except ValueError:  # a number that grew beyond all bounds
        return False


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file aside, flush it to the disk and rename it into place."""
    write_parts(path, [data])


def write_parts(path: Path, parts: Iterable[Buffer]) -> None:
    """The same for a file in parts, which need not be in memory together."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def as_json(value: Any) -> bytes:
    """Plain values as readable JSON, the same bytes for the same values in the same order."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Write plain values as readable JSON, whole or not at all."""
    write_bytes(path, as_json(value))


def read_json(path: Path) -> Any:
    """Read JSON; InputError that names the file if it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable JSON ({error})") from None


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, beside ``folder``; it takes that name when the block ends without an error.

    Leftovers of processes that died are removed. An existing ``folder`` is replaced, so check before that it is ours;
    of a link to a folder, the folder is. Files have the mode that the umask gives, whichever library wrote them.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    aside.mkdir()
    try:
        yield aside
        flush_below(aside)
        if folder.exists():
            old = folder.with_name(f".{folder.name}.{os.getpid()}.old.tmp")
            folder.rename(old)
            aside.rename(folder)
            shutil.rmtree(old)
        else:
            aside.rename(folder)
        flush(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that no longer run left aside while they wrote ``folder``.

    So does what bears this process's own number: in a container the next process often has that of the killed one.
    """
    for leftover in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
        pid = leftover.name.removeprefix(f".{folder.name}.").split(".")[0]
        if pid.isdigit() and (int(pid) == os.getpid() or not _runs(int(pid))):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Flush a file or folder to the disk; OSError if a file's bytes do not get there."""
    # some network file systems cannot flush folders
    with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
        descriptor = os.open(path, os.O_RDWR if on_windows() else os.O_RDONLY)  # Windows flushes what it may write
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def share(path: Path, folder: Path) -> None:
    """Give a file the permissions of a folder that was made by the same umask; some libraries make theirs 0600."""
    mode = stat.S_IMODE(path.stat().st_mode)
    wanted = mode | stat.S_IMODE(folder.stat().st_mode) & 0o666
    if wanted != mode:
        path.chmod(wanted)


def flush_below(folder: Path) -> None:
    """Flush all files and folders below one, several at once: a disk takes those together, and waits for each alone.

    Files become readable for whom the folder is.

    Raises:
        OSError: If a file's bytes do not get there.
    """
    paths = folder.rglob("*")

    def settle(path: Path) -> None:
        if path.is_file() and not path.is_symlink():
            share(path, folder)
        flush(path)

    with ThreadPoolExecutor(16) as threads:
        while some := list(islice(paths, 1024)):  # of LlamaGen's there are millions
            for _ in threads.map(settle, some):
                pass


def claim_output(folder: Path, marker: str) -> None:
    """Check that a folder may take this name at the end: it is new, empty, or an earlier result of the same command.

    Args:
        folder: The output folder.
        marker: Name of a file that shows it to be an earlier result.

    Raises:
        InputError: If it holds something else, or is not a folder, or cannot be replaced.
    """
    claim_inside(folder, marker)
    real = folder.resolve()
    if real.is_dir():
        if os.path.ismount(real):
            raise InputError(f"out={folder} is a mount point, which no other folder can replace; give a folder in it")
        _try_to_write(folder, real.parent, real.name)


def claim_inside(folder: Path, marker: str, known: Sequence[str] = ()) -> None:
    """Check that results may be written into a folder: new, empty, or begun by the same command.

    Args:
        folder: The output folder, or a link to it.
        marker: Name of a file that shows it to be begun by the same command.
        known: Names of what may be there before it is.

    Raises:
        InputError: If it holds something else, or is not a folder, or cannot be written to.
    """
    try:
        for place in (folder, *folder.absolute().parents):
            if place.exists():
                break
            if place.is_symlink():
                raise InputError(f"out={folder}: {place} is a link to {place.readlink()}, which is not there; make it")
        else:
            place = folder.absolute()
        if place == folder and not folder.is_dir():
            raise InputError(f"out={folder} is a file; give a folder that does not exist yet")
        if (
            folder.is_dir()
            and not (folder / marker).exists()
            and any(_is_foreign(path) and path.name not in known for path in folder.iterdir())
        ):
            raise InputError(f"out={folder} already holds something else (no {marker} in it); give another folder")
    except (OSError, ValueError) as error:
        raise unwritable(f"out={folder}", error) from None
    _try_to_write(folder, place, folder.name)


def _is_foreign(path: Path) -> bool:
    """Whether a file is not what a killed process left of its own."""
    return not (path.name.startswith(".") and path.name.endswith((".tmp", ".lock")))


def _try_to_write(folder: Path, place: Path, name: str) -> None:
    """Raise InputError unless folders can be made in ``place``; permissions alone do not say it."""
    probe = place / f".{name}.{os.getpid()}.tmp"
    try:
        probe.mkdir(exist_ok=True)
        probe.rmdir()
    except (OSError, ValueError) as error:
        raise unwritable(f"out={folder}", error) from None


def unwritable(what: str, error: Exception) -> InputError:
    """The error for a folder that cannot be written to; ``what`` names it, such as ``out=DIR``."""
    if isinstance(error, InputError):
        return error
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    return InputError(f"{what} cannot be written to ({reason}); give another folder")


class Lock:
    """A lock on a file, which one process holds at a time; the kernel lets go of it when that ends, however it ends.

    Processes that are forked do not hold it too. Where the file system knows no locks, that is said and nothing held.

    Args:
        path: The file. It is there while the lock is held, and says by whom.
        what: What is locked, for messages: ``out=DIR``.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self._descriptor = -1

    def take(self) -> None:
        """Hold it; InputError that names who does if it is another process, OSError if there can be no such file."""
        require_posix()
        import fcntl

        while self._descriptor < 0:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(descriptor, 4096).decode(errors="replace").strip()
                os.close(descriptor)
                raise InputError(
                    f"{self.what} is in use by {holder or 'another process'}; wait for it or give another folder"
                ) from None
            except OSError as error:
                log.warning(
                    "%s cannot be locked (%s): nothing keeps a second process from it", self.what, error.strerror
                )
            if os.fstat(descriptor).st_nlink == 0:  # let go of, and removed, since we opened it
                os.close(descriptor)
                continue
            since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {since}\n".encode())
            self._descriptor = descriptor
            _HELD.add(descriptor)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it while a block runs; its folder is made first. InputError if that cannot be."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.take()
        except OSError as error:
            raise unwritable(self.what, error) from None
        try:
            yield
        finally:
            self.release()

    def release(self) -> bool:
        """Let go of it; says whether it was held."""
        held = self._descriptor in _HELD
        if held:
            self.path.unlink(missing_ok=True)
            _HELD.remove(self._descriptor)
            os.close(self._descriptor)
        self._descriptor = -1
        return held


_HELD: set[int] = set()  # descriptors of locks of this process


def _forget_locks() -> None:
    """In a process that was just forked: it may outlive the one that holds the locks."""
    for descriptor in _HELD:
        os.close(descriptor)
    _HELD.clear()


if hasattr(os, "register_at_fork"):  # no process is forked on Windows
    os.register_at_fork(after_in_child=_forget_locks)


def _runs(pid: int) -> bool:
    if on_windows():
        return True  # not known: os.kill with 0 sends Ctrl-C there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
