"""Small image files and shards for the tests of data."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
def folder(tmp_path: Path, picture: Callable[[int], bytes]) -> Path:
    """23 images in three classes."""
    for index in range(23):
        path = tmp_path / "images" / "abc"[index % 3] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(index))
    return tmp_path / "images"
