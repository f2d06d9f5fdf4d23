"""Processes whose loading goes wrong in every way; prints how each ended, as JSON. A script, since exits are tried."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imtok.data.images import ImageSet
from imtok.data.order.loader import evaluation_loader
from imtok.data.order.workers import Loader
from imtok.data.reading.transforms import CentreCrop
from imtok.data.sources.folder import FileSource
from imtok.errors import InputError

held: list[Any] = []  # what a process still refers to when it exits


class Broken(FileSource):
    """A source of one's own that fails at its sixth image."""

    def __init__(self, path: Path, kind: str) -> None:
        super().__init__(path)
        self.kind = kind

    def read(self, index: int) -> bytes:
        if index == 5:
            self.fail()
        return super().read(index)

    def fail(self) -> None:
        class Local(Exception):  # noqa: N818, of which pickle knows nothing
            pass

        errors = {
            "key": KeyError("x"),
            "memory": MemoryError(),
            "class of its own": Local("x"),
            "stop": StopIteration(),
        }
        if self.kind in errors:
            raise errors[self.kind]
        if self.kind == "refusal":
            raise InputError("shard 3 is gone; mount it again")
        if self.kind == "sys.exit":
            sys.exit(0)
        if self.kind == "os._exit":
            os._exit(0)
        if self.kind == "killed":
            os.kill(os.getpid(), 9)
        if self.kind in ("stuck", "main killed"):
            time.sleep(1000)


class Batches:
    """Places of images; fails where the prefetching of a loader's start reads."""

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        yield [(0, 0)]
        raise RuntimeError("the sampler is broken")


def deaf(loader: Loader) -> Loader:
    """As loaders are in training; ``imtok.training.signals`` does it, but takes seconds to import."""
    before = loader.worker_init_fn
    assert before is not None

    def start(worker: int) -> None:
        before(worker)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    loader.worker_init_fn = start
    return loader


def run(images: ImageSet, kind: str) -> None:
    """Read the images; what is wrong with them, or with what reads them, ends the process."""
    if kind == "sampler":
        held.append(iter(deaf(Loader(images, 2, list, batch_sampler=Batches()))))
        next(held[0])
    batches = iter(deaf(evaluation_loader(images, 2, workers=2)))
    held.append(batches)
    for number, _ in enumerate(batches):
        if number == 1 and kind == "consumer":
            raise RuntimeError("what reads them is broken")
        if number == 1 and kind == "unfinished":
            return
        if number == 1 and kind == "stuck":
            raise RuntimeError("what reads them is broken, and a worker does not come back")
        if number == 1 and kind == "main killed":
            os.kill(os.getpid(), 9)


def left(group: int) -> int:
    """Processes of a group that still run."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, own = path.read_text().rpartition(") ")[2].split()[:3]
        except OSError:
            continue
        found += own == str(group) and state != "Z"
    return found


def main(folder: Path, kinds: list[str]) -> None:
    """Each kind in a process of its own."""
    rows = {}
    for kind in kinds:
        process = os.fork()
        if process == 0:
            os.setpgid(0, 0)  # and below, since either of the two may run first
            try:
                run(ImageSet(Broken(folder, kind), CentreCrop(16)), kind)
            except InputError as error:
                print(f"imtok: {error}", file=sys.stderr)  # noqa: T201
                sys.exit(2)
            sys.exit(0)
        os.setpgid(process, process)
        deadline = time.monotonic() + 20
        while (still := left(process)) and time.monotonic() < deadline:
            time.sleep(0.05)
        rows[f"{kind}: left"] = still
        if still:
            os.killpg(process, 9)
        rows[kind] = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    print(json.dumps(rows))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
