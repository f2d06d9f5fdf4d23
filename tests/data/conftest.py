"""Small image files and shards for the tests of data."""

import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
from data.both import Both
from data.served import EACH, SHARDS, Handler, Write
from PIL import Image

from imtok.data.archives import transport

Member = tuple[str, bytes]


@pytest.fixture
def picture() -> Callable[[int], bytes]:
    """A small PNG for every seed, unlike any other."""

    def encode(seed: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 10, 3), np.uint8)).save(file, "PNG")
        return file.getvalue()

    return encode


@pytest.fixture
def write_shard() -> Callable[[Path, list[Member]], Path]:
    """Writes a tar archive of regular files."""

    def write(path: Path, members: list[Member]) -> Path:
        with tarfile.open(path, "w") as shard:
            for name, data in members:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
        return path

    return write


@pytest.fixture
def both(tmp_path: Path, write_shard: Write):
    (tmp_path / "both").mkdir()
    made = Both(tmp_path / "both", write_shard)
    yield made
    made.files.rm("/both", recursive=True)


@pytest.fixture
def folder(tmp_path: Path, picture: Callable[[int], bytes]) -> Path:
    """23 images in three classes."""
    for index in range(23):
        path = tmp_path / "images" / "abc"[index % 3] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(index))
    return tmp_path / "images"


@pytest.fixture
def served(tmp_path: Path, write_shard: Write, picture: Callable[[int], bytes]) -> Path:
    """Shards on a disk."""
    (tmp_path / "served").mkdir()
    for shard in range(SHARDS):
        members = []
        for at in range(EACH):
            name = f"{shard * EACH + at:02d}"
            members += [(f"{name}.png", picture(shard * EACH + at)), (f"{name}.cls", b"%d" % shard)]
            members += [(f"{name}.txt", b"a caption"), (f"{name}.pkl", b"cos\nsystem\n")]
        write_shard(tmp_path / "served" / f"shard-{shard}.tar", members)
    return tmp_path / "served"


@pytest.fixture
def http(served: Path) -> Iterator[str]:
    """Their address behind a server."""
    Handler.breaks, Handler.break_after, Handler.answer = 0, None, None
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(served)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/shard-{{0..{SHARDS - 1}}}.tar"
    server.shutdown()
    server.server_close()


@pytest.fixture
def memory(served: Path) -> Iterator[str]:
    """Their address in memory."""
    files = fsspec.filesystem("memory")
    for path in served.iterdir():
        files.pipe(f"/set/{path.name}", path.read_bytes())
    yield f"memory://set/shard-{{0..{SHARDS - 1}}}.tar"
    files.rm("/set", recursive=True)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long streams would have waited before another try; nobody waits."""
    waited: list[float] = []
    monkeypatch.setattr(transport.time, "sleep", waited.append)
    return waited
