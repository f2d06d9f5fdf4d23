"""An index is one file that all processes map: made by one of them, and copied by none."""

import json
import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from imtok.data.archives import index as module
from imtok.data.archives.index import find_index
from imtok.data.archives.mapped import Mapped, map_tensors, tensor_parts
from imtok.data.archives.names import Names
from imtok.data.archives.shards import ShardSource
from imtok.data.sources import apart
from imtok.data.sources.folder import Folder
from imtok.data.sources.webdataset import WebDataset
from imtok.errors import InputError

Write = Callable[[Path, list[tuple[str, bytes]]], Path]


@pytest.fixture
def shards(tmp_path: Path, folder: Path, write_shard: Write) -> Path:
    (tmp_path / "shards").mkdir()
    files = sorted(folder.rglob("*.png"))
    for shard in range(3):
        write_shard(tmp_path / f"shards/{shard}.tar", [(path.name, path.read_bytes()) for path in files[shard::3]])
    return tmp_path / "shards"


def source_of(shards: Path, index: Path | None) -> ShardSource:
    source = WebDataset(shards, index=index).evaluation(8).source  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(source, ShardSource)
    return source


def test_what_is_known_of_each_image_stays_in_the_file(shards: Path, tmp_path: Path):
    made, plain = source_of(shards, tmp_path / "index"), source_of(shards, None)
    source = source_of(shards, tmp_path / "index")
    columns = (source.offsets, source.sizes, source.content_hashes, source.stems.block, source.stems.ends)
    assert all(isinstance(column, Mapped) and not column.flags.owndata for column in columns)
    assert source.content_hashes is not None
    assert np.array_equal(source.content_hashes, made.content_hashes)
    for place in range(len(plain)):
        assert source.record(place) == plain.record(place)
        assert source.image(place).equal(plain.image(place))
    with pytest.raises(ValueError, match="read-only"):
        source.offsets[0] = 1


def test_a_process_that_a_source_is_sent_to_maps_the_file_too(shards: Path, tmp_path: Path):
    source_of(shards, tmp_path / "index")
    source = source_of(shards, tmp_path / "index")
    sent = pickle.dumps(source.offsets)
    assert len(sent) < 300
    assert isinstance(pickle.loads(sent), Mapped)
    again = pickle.loads(pickle.dumps(source))
    assert again.stems == source.stems
    assert isinstance(again.stems.block, Mapped)
    assert [again.record(place) for place in range(23)] == [source.record(place) for place in range(23)]
    part = pickle.loads(pickle.dumps(source.offsets[3:5]))
    assert part.tolist() == source.offsets[3:5].tolist()


def noted(action: Callable[..., np.ndarray], path: Path, *arguments: Any) -> np.ndarray:
    """What an action returns; the file says that it was done."""
    path.touch()
    return action(*arguments)


def test_of_processes_that_start_together_one_makes_the_index(folder: Path, tmp_path: Path):
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            module._hash_all = partial(noted, module._hash_all, tmp_path / f"made-{number}")
            source = Folder(folder, index=tmp_path / "index").evaluation(8).source  # pyright: ignore
            os._exit(0 if source.content_hashes is not None else 1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert len(list(tmp_path.glob("made-*"))) == 1
    assert list(tmp_path.glob(".*")) == []


def test_the_checksum_is_looked_at_once_for_all_processes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    Folder(folder, index=tmp_path / "index").evaluation(8)
    data = bytearray((tmp_path / "index").read_bytes())
    data[-1] ^= 1
    (tmp_path / "index").write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        find_index(tmp_path / "index", "files")
    monkeypatch.setattr(module, "launched_rank", lambda: 1)
    found = find_index(tmp_path / "index", "files")
    assert found is not None
    assert isinstance(found["names"], Names)


def test_shards_that_lie_apart_share_no_image_and_none_is_looked_at(
    shards: Path, tmp_path: Path, write_shard: Write, picture: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
):
    held = write_shard(tmp_path / "held.tar", [("1.png", picture(99))])
    whole, one, other = (source_of(path, None) for path in (shards, shards / "1.tar", held))
    assert apart.shared(whole, one).sum() == len(one)
    monkeypatch.setattr(ShardSource, "origins", None)
    assert not apart.shared(whole, other).any()


def test_the_file_is_what_safetensors_writes_but_for_the_order_of_its_header(tmp_path: Path):
    arrays = {
        "names": np.arange(7, dtype=np.uint8),
        "ends": np.arange(3, dtype=np.int64),
        "hashes": np.ones((5, 16), np.uint8),
        "captions": np.zeros((0, 2), np.int64),
        "counts": np.arange(5, dtype=np.int32),
        "files": np.arange(4, dtype=np.uint64).reshape(2, 2),
    }
    for about in ({"kind": "files"}, {"kind": "shards", "format": "1"}):
        data, whole = b"".join(map(bytes, tensor_parts(arrays, about))), save(arrays, about)
        size = int.from_bytes(whole[:8], "little")
        assert data[:8] == whole[:8]
        assert json.loads(data[8 : 8 + size]) == json.loads(whole[8 : 8 + size])
        assert data[8 + size :] == whole[8 + size :]
        (tmp_path / "file").write_bytes(data)
        said, mapped = map_tensors(tmp_path / "file")
        assert said == about
        assert all(np.array_equal(mapped[name], array) for name, array in arrays.items())
    (tmp_path / "file").write_bytes(save({"a": np.ones(1, np.float32)}))
    with pytest.raises(ValueError, match="a is of type F32"):
        map_tensors(tmp_path / "file")
