"""A token store while it is built: shards whole or absent, shared by processes, taken up again after a kill."""

import contextlib
import errno
import hashlib
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from imtok.errors import InputError
from imtok.export.store import FORMAT, record_name
from imtok.files import claim_output, flush, is_sealed, read_json, remove_leftovers, sealed, share, stamp
from imtok.measures.inference import require_images
from imtok.shard_folder import MANIFEST, PLAN, ShardFolder, disk_full, put, writing
from imtok.system import require_posix

LOCK = ".lock"
_ALL, _FINISH = 2**40, 2**41  # bytes of the lock file beyond any shard's number
_TRIES = 1000  # each fails only where another process has just finished


class Building(ShardFolder):
    """The folder ``NAME.partial`` beside the store, which takes the store's name once all shards are in it.

    A shard's record is written last and holds the hashes of its files: without it there is no such shard. Each shard
    is written by one process, which holds a lock that ends with the process, however that ends.

    Args:
        folder: The store to be.
        plan: All that decides what the store will hold, as plain values. Shards of another plan are never mixed in.

    Raises:
        InputError: If something else lies in the way, a rest of another plan included, or there can be no lock.
    """

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        require_posix()
        claim_output(folder, MANIFEST)
        self.store = folder.resolve()  # of a link to a folder, the folder is written to
        super().__init__(self.store.with_name(f"{self.store.name}.partial"), plan)
        self._known: dict[int, bool] = {}
        remove_leftovers(self.store)
        self._lock = -1
        for _ in range(_TRIES):
            if self._lock >= 0 or self.finished():
                break
            self._enter()
        else:
            raise InputError(f"{self.folder} cannot be made; give out=DIR elsewhere")
        if self._lock < 0:
            with contextlib.suppress(OSError):  # of a process that was killed after its last step but one
                (self.store / LOCK).unlink()

    def _enter(self) -> None:
        """Open the folder that all processes share, or find that another process has finished it just now."""
        if self.folder.is_dir() and any(self.folder.iterdir()) and not (self.folder / LOCK).exists():
            raise InputError(f"{self.folder} is in the way and not the rest of an export; move it elsewhere")
        with writing(self.folder, lambda: 4096), contextlib.suppress(FileNotFoundError):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        if self._lock < 0:
            return
        self._acquire(_ALL)
        try:
            if self.finished() and self._is_ours():  # and we opened a new folder since
                shutil.rmtree(self.folder)
            if self._is_ours():
                self.begin()
                return
        finally:
            self._release(_ALL)
        os.close(self._lock)
        self._lock = -1

    def _is_ours(self) -> bool:
        """Whether the lock that we hold is that of the folder which is there now."""
        with contextlib.suppress(FileNotFoundError):
            return os.fstat(self._lock).st_ino == (self.folder / LOCK).stat().st_ino
        return False

    def finished(self) -> bool:
        """Whether the store is there, made by the same plan."""
        plan = self.store / PLAN
        return plan.is_file() and (self.store / MANIFEST).is_file() and read_json(plan) == self.plan

    def manifest(self) -> dict[str, Any]:
        """That of the finished store."""
        return read_json(self.store / MANIFEST)

    def has(self, number: int) -> bool:
        """Whether a shard is there and its files have the hashes of its record; each is read once."""
        if not self._known.get(number):
            self._known[number] = self._check(number) or self.finished()
        return self._known[number]

    def _check(self, number: int) -> bool:
        try:
            record = read_json(self.folder / record_name(number))
        except InputError:
            return False
        return is_sealed(record) and all(
            (self.folder / name).is_file() and stamp(self.folder / name) == about
            for name, about in record["files"].items()
        )

    def claim(self, number: int, wait: bool = False) -> bool:
        """Take a shard that is not there for this process; False if another process has it or it is there.

        Args:
            number: Of the shard.
            wait: Until the other process is done or dead.
        """
        if self.has(number):
            return False
        if not self._acquire(number, wait):
            return False
        if self.has(number):  # finished meanwhile
            self._release(number)
            return False
        self.sweep(f".*-{number:05d}.*.tmp")
        return True

    def write(self, number: int, arrays: dict[str, np.ndarray], about: dict[str, Any]) -> None:
        """Write a claimed shard: its arrays, then its record; and let go of it.

        Raises:
            InputError: If the disk is full; whole shards stay.
        """
        files = {}
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            data = buffer.getvalue()
            files[f"{name}-{number:05d}.npy"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            put(self.folder / f"{name}-{number:05d}.npy", data)
        self.note(record_name(number), sealed({"number": number, **about, "files": files}))
        self._known[number] = True
        self._release(number)

    def require_room(self, needed: int) -> None:
        """Raise InputError unless so many more bytes fit on the disk."""
        free = shutil.disk_usage(self.store.parent).free
        if needed > free:
            raise disk_full(self.folder, needed, free)

    def finish(self, shards: int, codebook: Callable[[Path], str | None], head: dict[str, Any]) -> dict[str, Any]:
        """Write codebook and manifest, and give the store its name. The first process to come does it.

        Args:
            shards: How many there must be.
            codebook: Writes the tables to the path that it is given; returns why there are none.
            head: What the manifest says besides.

        Raises:
            InputError: If a shard is not there, or the shards do not fit each other.
        """
        if self._lock < 0:
            return self.manifest()
        self._acquire(_FINISH)
        try:
            if self.finished():
                return self.manifest()
            manifest = self.seal(self._facts(shards, codebook, head))
            self._acquire(_ALL)  # no process may come in while the folder moves
            try:
                self._publish()
            finally:
                self._release(_ALL)
        finally:
            self._release(_FINISH)
        return manifest

    def _facts(self, shards: int, codebook: Callable[[Path], str | None], head: dict[str, Any]) -> dict[str, Any]:
        """What the manifest says; the codebook is written on the way."""
        # What each shard says of itself; all of them must be there.
        records = []
        for number in range(shards):
            if not self.has(number):
                raise InputError(f"{self.folder / record_name(number)} is missing; run the same command again")
            records.append(read_json(self.folder / record_name(number)))
        self.sweep()
        # What they must have in common.
        full = [record for record in records if record["keys"]]
        bad = [bad for record in records for bad in record["bad"]]
        require_images(len(full), bad)
        shapes = {(*record["image_size"], record["tokens"]) for record in full}
        whole = any("sizes" in record for record in full)
        if len(shapes) > 1 and not whole:
            raise InputError(f"images must all have one size, got {sorted(shapes)} (height, width, tokens)")
        # The codebook, then hashes of all files.
        with writing(self.folder, lambda: 2**20):
            path = self.folder / "codebook.safetensors"
            absent = codebook(path)
            if path.exists():
                share(path, self.folder)
        paths = [path for path in sorted(self.folder.iterdir()) if path.name not in (MANIFEST, LOCK)]
        texts = sum(len(own) for record in records for own in record.get("texts", ()))
        return {
            "format": FORMAT,
            "images": sum(len(record["keys"]) for record in records),
            "tokens": max(record["tokens"] for record in full),
            "image_size": full[0]["image_size"],
            "batch_size": max(record["batch_size"] for record in full),
            "variable_length": any(record["variable_length"] for record in full),
            "shards": shards,
            "captions": sum(map(bool, (text for record in records for text in record.get("captions", ())))),
            **({"texts": texts} if texts else {}),
            **head,
            "codebook_absent": absent,
            "unreadable": len(bad),
            "bad": bad,
            "files": {path.name: stamp(path) for path in paths},
        }

    def _publish(self) -> None:
        """The folder takes the store's name; an earlier store in it goes."""
        for path in self.folder.iterdir():
            if path.name != LOCK:  # to close a file once more would let go of all locks on it
                flush(path)
        old = self.store.with_name(f".{self.store.name}.{os.getpid()}.old.tmp")
        if self.store.exists():
            self.store.rename(old)
        self.folder.rename(self.store)
        flush(self.store.parent)
        (self.store / LOCK).unlink()
        shutil.rmtree(old, ignore_errors=True)

    def close(self) -> None:
        """Let go of all shards; a folder without a whole shard goes, unless another process is at work in it."""
        if self._lock < 0:
            return
        with contextlib.suppress(OSError):
            _lockf(self._lock, "try")
            if self.folder.is_dir() and not any(self.folder.glob("ids-*.npy")):
                shutil.rmtree(self.folder)
        os.close(self._lock)
        self._lock = -1

    def _acquire(self, number: int, wait: bool = True) -> bool:
        try:
            # of one byte of the file, and of this process alone: workers that are forked do not keep it alive
            _lockf(self._lock, "wait" if wait else "try", 1, number)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise InputError(
                f"{self.folder / LOCK} cannot be locked ({error.strerror}); give out=DIR elsewhere"
            ) from None
        return True

    def _release(self, number: int) -> None:
        _lockf(self._lock, "release", 1, number)


def _lockf(descriptor: int, operation: str, length: int = 0, start: int = 0) -> None:
    """Lock bytes of a file (``wait`` or ``try``), or ``release`` them; imported when used, as Windows has no fcntl."""
    import fcntl

    flags = {"wait": fcntl.LOCK_EX, "try": fcntl.LOCK_EX | fcntl.LOCK_NB, "release": fcntl.LOCK_UN}
    fcntl.lockf(descriptor, flags[operation], length, start)
