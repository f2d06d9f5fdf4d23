"""Files and folders that appear whole or not at all, and the hashes that show it."""

import contextlib
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from imtok.errors import InputError


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write plain values as readable JSON, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


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

    Leftovers of processes that died are removed. An existing ``folder`` is replaced, so check before that it is ours.
    """
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
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def flush_below(folder: Path) -> None:
    """Flush all files and folders below one, several at once: a disk takes those together, and waits for each alone.

    Raises:
        OSError: If a file's bytes do not get there.
    """
    paths = folder.rglob("*")
    with ThreadPoolExecutor(16) as threads:
        while some := list(islice(paths, 1024)):  # of LlamaGen's there are millions
            for _ in threads.map(flush, some):
                pass


def claim_output(folder: Path, marker: str) -> None:
    """Check that results may be written to ``folder``: new, empty, or an earlier result of the same command.

    Args:
        folder: The output folder.
        marker: Name of a file that shows it to be an earlier result.

    Raises:
        InputError: If it holds something else, or is not a folder, or cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"out={folder} is a file; give a folder that does not exist yet")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / marker).exists():
        raise InputError(f"out={folder} already holds something else (no {marker} in it); give another folder")
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        raise InputError(f"out={folder} cannot be written to (no permission for {existing})")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
