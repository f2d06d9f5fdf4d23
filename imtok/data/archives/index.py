"""A stored index: every image's name, place, size and content hash in one file, made once and read ever after."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import cast

import numpy as np
import xxhash
from jaxtyping import UInt8
from safetensors import SafetensorError

from imtok.data.archives.mapped import map_tensors, tensor_parts
from imtok.data.archives.names import Names, fold_array, printable
from imtok.data.images import Columns, Indexable, content_hash
from imtok.distributed import launched_rank
from imtok.errors import InputError
from imtok.files import write_parts
from imtok.system import on_windows

log = logging.getLogger(__name__)

FORMAT = "imtok-index-1"
THREADS = 8
AT_A_TIME = 256  # images that a thread hashes before it takes the next ones: they mostly share a shard
PATIENCE = 10.0  # seconds between lines that tell how far it is


def find_index(path: Path, kind: str) -> Columns | None:
    """The columns of a stored index, mapped and not read; None if there is none yet.

    Args:
        path: Its file.
        kind: What it must be of: ``files`` or ``shards``.

    Raises:
        InputError: If the file is damaged or no such index.
    """
    if not path.exists():
        return None
    try:
        about, arrays = map_tensors(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"data.index={path} cannot be read ({_line(error)}); {_AGAIN}") from None
    if about.get("format") != FORMAT:
        raise InputError(f"data.index={path} is not an index of imtok; give another file")
    if launched_rank() == 0 and about.get("checksum") != _checksum(arrays):  # once for all processes
        raise InputError(f"data.index={path} is damaged (its checksum is wrong); {_AGAIN}")
    if about.get("kind") != kind:
        raise InputError(f"data.index={path} is of {about.get('kind')}, not of {kind}; give another file")
    ends = {name.removesuffix(".ends"): arrays.pop(name) for name in list(arrays) if name.endswith(".ends")}
    return {name: Names.of(array, ends[name]) if name in ends else array for name, array in arrays.items()}


@contextmanager
def one_writer(path: Path) -> Iterator[None]:
    """Let one process at a time make an index. Others wait, and find it made.

    Where there can be no lock, all of them make it, to the same bytes.
    """
    lock, descriptor = path.with_name(f".{path.name}.lock"), -1
    if not on_windows():
        import fcntl

        with contextlib.suppress(OSError):
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if descriptor >= 0:
            lock.unlink(missing_ok=True)
            os.close(descriptor)


def write_index(source: Indexable, path: Path) -> UInt8[np.ndarray, "images 16"]:
    """Hash every image of a source and store the index, whole or not at all.

    Returns:
        The hashes.

    Raises:
        InputError: If the file cannot be written, or more than single images cannot be read.
    """
    if not path.absolute().parent.is_dir():
        raise InputError(f"data.index={path} cannot be written: {path.parent} is not a folder; make it first")
    hashes = _hash_all(source)
    try:
        store_index(source, hashes, path)
    except OSError as error:
        raise InputError(f"data.index={path} cannot be written ({error.strerror or error}); free some room") from None
    log.info("index of %d images written to %s", len(source), path)
    return hashes


def store_index(source: Indexable, hashes: UInt8[np.ndarray, "images 16"], path: Path) -> None:
    """Store an index whose hashes are known, whole or not at all."""
    columns: Columns = {**source.columns(), "hashes": hashes}
    arrays: dict[str, np.ndarray] = {}
    for name, column in columns.items():
        if isinstance(column, Names):
            arrays[name], arrays[f"{name}.ends"] = np.frombuffer(column.block, np.uint8), column.ends
        else:
            arrays[name] = np.ascontiguousarray(column)
    about = {"format": FORMAT, "kind": source.kind, "checksum": _checksum(arrays)}
    write_parts(path, tensor_parts(arrays, about))


def require_same(stored: Columns, found: Columns, names: str, sizes: str, what: str) -> None:
    """Raise InputError that names the first difference between an index and the data, and the fix.

    Args:
        stored: The index.
        found: The data.
        names: The column of names to compare.
        sizes: The column of their sizes, in bytes.
        what: What they are called.
    """
    if stored[names] == found[names] and np.array_equal(_array(stored[sizes]), _array(found[sizes])):
        return
    before, now = (
        dict(zip(cast(Names, columns[names]), _array(columns[sizes]).tolist(), strict=True))
        for columns in (stored, found)
    )
    name = min(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if name not in now:
        difference = "is in the index and no longer there"
    elif name not in before:
        difference = "is not in the index"
    else:
        difference = f"has {now[name]} bytes, and {before[name]} in the index"
    raise InputError(
        f"data.index is not of this data: {what} {printable(name)} {difference} ({len(before)} {what}s then, "
        f"{len(now)} now); bring the data back, or {_AGAIN}"
    )


_AGAIN = "delete the index file and it is made again"


def _hash_all(source: Indexable) -> UInt8[np.ndarray, "images 16"]:
    """The hash of each image; zeros for one that cannot be read."""
    hashes = np.zeros((len(source), 16), dtype=np.uint8)
    start = said = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:  # reading and hashing both let other threads run
        for done in pool.map(lambda at: _hash_some(source, at, hashes), range(0, len(source), AT_A_TIME)):
            if time.monotonic() - said > PATIENCE:
                said = time.monotonic()
                left = (said - start) * (len(source) - done) / done
                log.info("hashing images for the index: %d of %d, %.0f s left", done, len(source), left)
    return hashes


def _hash_some(source: Indexable, at: int, hashes: np.ndarray) -> int:
    own = copy(source)  # a source's open files are for one thread
    end = min(at + AT_A_TIME, len(source))
    for index in range(at, end):
        try:
            hashes[index] = np.frombuffer(content_hash(own.read(index)), np.uint8)
        except OSError:  # it is a bad image now, and stays one by the hash of nothing
            continue
    return end


def _array(column: Names | np.ndarray) -> np.ndarray:
    assert isinstance(column, np.ndarray)
    return column


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    digest = xxhash.xxh3_128()
    for name, array in sorted(arrays.items()):
        fold_array(digest, name, array)
    return digest.hexdigest()


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
