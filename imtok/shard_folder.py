"""A folder that is filled shard by shard. Each is whole or absent, and the same command goes on after a kill."""

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imtok.errors import InputError
from imtok.files import as_json, read_json, sealed, write_bytes

MANIFEST, PLAN = "manifest.json", "plan.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SHORT = 40  # characters of a value that a message shows


class ShardFolder:
    """Shards that one plan decides, a record of each, and a manifest once all are there.

    Args:
        folder: Where the shards are written.
        plan: All that decides what they hold, as plain values. Shards of another plan are never mixed in.
        records: The folder in it that the plan and the records are written to; "" = itself.
    """

    def __init__(self, folder: Path, plan: dict[str, Any], records: str = "") -> None:
        self.folder, self.records, self.plan = folder, folder / records, json.loads(_line(plan))

    def begin(self) -> None:
        """Write the plan, or check that the one that is there is the same."""
        if (self.records / PLAN).exists():
            self.require_same(read_json(self.records / PLAN))
        else:
            self.note(PLAN, self.plan)

    def require_same(self, before: dict[str, Any]) -> None:
        """Raise InputError that names what differs, unless an earlier plan is this one."""
        changed = [
            _difference(name, before.get(name), self.plan.get(name))
            for name in sorted({*before, *self.plan})
            if before.get(name) != self.plan.get(name)
        ]
        if changed:
            raise InputError(
                f"{self.folder} holds shards of other settings ({'; '.join(changed)}); remove it to begin again, or "
                "give another out"
            )

    def note(self, name: str, values: dict[str, Any]) -> None:
        """Write the plan, or a shard's record."""
        put(self.records / name, _line(values))

    def sweep(self, pattern: str = ".*.tmp") -> None:
        """Remove what a killed process left half-written, of files that nobody else writes now."""
        for leftover in self.folder.glob(pattern):
            leftover.unlink()

    def seal(self, values: dict[str, Any]) -> dict[str, Any]:
        """Write the manifest, with the hash of its own values; returns it."""
        manifest = sealed(values)
        put(self.folder / MANIFEST, as_json(manifest))
        return manifest


def put(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; InputError if there is no room for it, or it cannot be written."""
    with writing(path, lambda: len(data)):
        write_bytes(path, data)


@contextmanager
def writing(path: Path, needed: Callable[[], int | str]) -> Iterator[None]:
    """A block that writes. A full disk, or one that takes nothing, is one line that names the path.

    Args:
        path: What is written.
        needed: How many bytes that takes.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            there = next(place for place in (path, *path.parents) if place.exists())
            raise disk_full(path, needed(), shutil.disk_usage(there).free) from None
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}); mend that and run the same command again, or give "
            "out=DIR elsewhere"
        ) from None


def disk_full(path: Path, needed: int | str, free: int) -> InputError:
    """What to say of a disk that is full."""
    return InputError(
        f"{path} not written, the disk is full: it needs {needed} bytes and {free} are free; what is whole is kept: "
        "free some room and run the same command again"
    )


def _difference(name: str, before: Any, now: Any) -> str:
    plain = not any(isinstance(value, dict | list) or len(str(value)) > _SHORT for value in (before, now))
    return f"{name}={before}, not {now}" if plain else f"another {name}"


def _line(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, allow_nan=False) + "\n").encode()
