"""Packs a folder again and again, killed at random moments; prints what was left each time, as JSON. A script."""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from imtok.data.archives.pack import ShardLayout, pack
from imtok.data.sources.folder import FileSource


def started(images: Path, out: Path, workers: int) -> int:
    """A process that packs."""
    process = os.fork()
    if process == 0:
        pack(FileSource(images), out, ShardLayout(shard_images=4), workers=workers)
        os._exit(0)
    return process


def contents(out: Path) -> dict[str, str]:
    """The hash of every file below a folder."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def main(images: Path, work: Path, kills: int) -> None:
    """Pack once in peace, then so many times not."""
    start = time.monotonic()
    assert os.waitpid(started(images, work / "clean", 0), 0)[1] == 0
    whole, clean, numbers = time.monotonic() - start, contents(work / "clean"), random.Random(0)
    rows = []
    for kill in range(kills):
        out = work / f"{kill}"
        process = started(images, out, kill % 2)
        time.sleep(numbers.random() * whole)
        os.kill(process, signal.SIGKILL)
        died = os.WIFSIGNALED(os.waitpid(process, 0)[1])
        before = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
        assert os.waitpid(started(images, out, 0), 0)[1] == 0
        touched = [path.name for path, then in before.items() if path.stat().st_mtime_ns != then]
        rows.append({"died": died, "shards": len(before), "equal": contents(out) == clean, "touched": touched})
    print(json.dumps(rows))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
