"""webdataset reads a shard whole or not at all: what it would pass over without a word is an error by name."""

import ast
import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imtok.data.archives import strict, transport
from imtok.data.archives.members import Fields
from imtok.data.archives.remote import EncodedImage, read_remote
from imtok.data.archives.tar import CHUNK
from imtok.data.archives.transport import Connection, RemoteShard
from imtok.errors import InputError

Picture = Callable[[int], bytes]
SHARD = RemoteShard("https://me:secret@host/0.tar?token=secret", "0.tar")


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(transport.time, "sleep", waited.append)
    return waited


def archive(*members: tuple[str, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def read(data: bytes, **settings: Any) -> list[EncodedImage]:
    return list(read_remote([SHARD], lambda _: io.BytesIO(data), **settings))


def with_field(data: bytes, at: int, field: bytes) -> bytes:
    """The archive with other bytes in its first header, whose checksum is right."""
    header = bytearray(data[:512])
    header[at : at + len(field)] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[512:]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_shard_that_is_cut_at_any_block_boundary_is_an_error_by_name(format: int, picture: Picture):
    name = "ö" * 50 if format == tarfile.PAX_FORMAT else "a"
    members = [(f"{at}{name}.{kind}", data) for at in range(6) for kind, data in (("png", picture(at)), ("cls", b"1"))]
    data = archive(*members, format=format)
    end = len(data.rstrip(b"\0")) // 512 + 1
    assert len(read(data)) == 6
    assert end > 20
    for blocks in range(end + 1):
        with pytest.raises(InputError, match=r"^shard 0\.tar could not be read in 3 tries .*(torn|is empty)") as caught:
            read(data[: blocks * 512])
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)
    assert len(read(data[: (end + 1) * 512])) == 6, "one block of the end mark says that nothing is missing"


@pytest.mark.parametrize("at", [100, 108, 116, 136])
def test_a_header_at_which_webdataset_would_end_is_refused(at: int, picture: Picture):
    first, last = archive(("0.png", picture(0))), archive(("1.png", picture(1)), ("2.png", picture(2)))
    first = first[: 512 + -(-len(picture(0)) // 512) * 512]
    assert len(read(first + last)) == 3
    with pytest.raises(InputError, match=r"0\.tar cannot be used: it has a header that webdataset reads in another"):
        read(first + with_field(last, at, b"9z"))


def test_an_archive_of_a_link_in_front_is_no_image_and_no_end(picture: Picture):
    data = with_field(archive(("0.npy", b""), ("1.png", picture(1))), 156, b"2")
    assert [image.stem for image in read(data)] == ["1"]
    with pytest.raises(InputError, match=r"holds '0\.npy' as a symbolic link to '', and a stream cannot follow links"):
        read(data, fields=Fields.of("npy", None, None))


def test_names_with_times_of_access_beside_them_are_those_of_the_headers(picture: Picture):
    data = archive(("0.png", picture(0)), ("0.txt", b"a cat"))
    (image,) = read(with_field(data, 345, b"14371462733\0" * 2))
    assert (image.stem, image.data, image.texts) == ("0", picture(0), ("a cat",))


def test_an_image_that_is_too_large_is_bad_and_a_long_text_is_not_read_whole(
    picture: Picture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(strict, "MAX_BYTES", len(picture(1)))
    data = archive(("0.png", picture(0) + b"x" * 600), ("0.cls", b"3"), ("1.txt", b"x" * 2**20), ("1.png", picture(1)))
    asked: list[int] = []

    class File(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            asked.append(size or 0)
            return super().read(size)

    first, second = read_remote([SHARD], lambda _: File(data))
    assert (first.data, first.label) == (None, 3)
    assert (second.data, second.texts) == (picture(1), ())
    assert "a caption of more than 65536 bytes" in second.unread
    assert max(size for size in asked if size < CHUNK // 2) == 2**16 + 1


def test_a_hole_in_the_archive_is_no_end(picture: Picture):
    data = archive(("0.png", picture(0))).rstrip(b"\0")
    data += bytes(-len(data) % 512)
    for zeros in (1024, 2**21):
        with pytest.raises(InputError, match="goes on after its end mark"):
            read(data + bytes(zeros) + archive(("1.png", picture(1))))


class Breaking:
    """An opener of which the first files break after so many bytes; it counts what they give."""

    def __init__(self, data: bytes, after: int, seeks: bool, breaks: int = 99, other: bytes | None = None) -> None:
        self.data, self.after, self.seeks, self.breaks, self.other, self.given = data, after, seeks, breaks, other, 0

    def __call__(self, url: str) -> Any:
        outer, file = self, io.BytesIO(self.data if self.other is None or not self.given else self.other)
        self.breaks -= 1

        class File:
            left = outer.after if outer.breaks >= 0 else len(outer.data) + 1

            def read(self, size: int) -> bytes:
                if self.left <= 0:
                    raise ConnectionError(f"{url} broke")
                data = file.read(min(size, self.left))
                self.left -= len(data)
                outer.given += len(data)
                return data

            def seek(self, at: int) -> int:
                if not outer.seeks:
                    raise io.UnsupportedOperation
                return file.seek(at)

            def close(self) -> None:
                file.close()

        return File()


def test_a_connection_goes_on_at_the_byte_where_it_broke(picture: Picture, pauses: list[float]):
    data = archive(*[(f"{at}.png", picture(at) * 20) for at in range(9)])
    opener = Breaking(data, 20_000, seeks=True)
    images = list(read_remote([SHARD], opener))
    assert [image.data for image in images] == [picture(at) * 20 for at in range(9)]
    assert len(pauses) > 3
    assert opener.given < len(data) + len(pauses) * (transport.LAST + 10_240)
    assert list(read_remote([SHARD], Breaking(data, 20_000, seeks=False, breaks=2))) == images
    with pytest.raises(
        InputError, match=r"shard 0\.tar could not be read in 3 tries \(https://host/0\.tar: .* broke\)"
    ):
        list(read_remote([SHARD], Breaking(data, 20_000, seeks=False)))


def test_a_shard_that_changes_while_it_is_read_is_refused(picture: Picture):
    data, other = (archive(*[(f"{at}.png", picture(at + more) * 20) for at in range(9)]) for more in (0, 1))
    for seeks in (True, False):
        with pytest.raises(InputError, match=r"shard 0\.tar cannot be read .* it has changed while it was read"):
            list(read_remote([SHARD], Breaking(data, 30_000, seeks, 1, other)))


def test_an_action_that_fails_gets_the_same_bytes_again(pauses: list[float]):
    connection, seen = Connection(SHARD, lambda _: io.BytesIO(b"abcdef")), []

    def action(read: Callable[[int], bytes]) -> bytes:
        seen.append(read(2))
        if len(seen) % 2:
            raise ValueError("once")
        return seen[-1]

    assert [connection.take(action) for _ in range(3)] == [b"ab", b"cd", b"ef"]
    assert (connection.at, len(pauses)) == (6, 3)


class Gadget:
    """Creates a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


def test_no_decoder_of_webdataset_sees_a_shard(tmp_path: Path, picture: Picture):
    gadget = pickle.dumps(Gadget(tmp_path / "marker"))
    kinds = ("pyd", "pickle", "pkl", "pth", "pt", "npy", "npz", "ten", "mp", "cbor")
    data = archive(("0.png", picture(0)), *((f"0.{kind}", gadget) for kind in kinds), ("0.cls", b"1"))
    assert [image.label for image in read(data)] == [1]
    for kind in kinds:
        (image,) = read(data, fields=Fields.of(kind, None, None))
        assert image.data == gadget
        with pytest.raises(InputError, match="neither a class index nor the name of a class"):
            read(data, fields=Fields.of("png", None, kind))
    assert not (tmp_path / "marker").exists()


def test_imtok_takes_of_webdataset_what_neither_opens_nor_decodes():
    allowed = {
        "webdataset.pipeline": {"DataPipeline"},
        "webdataset.shardlists": {"ResampledShards", "split_by_node", "split_by_worker"},
        "webdataset.tariterators": {"group_by_keys", "tar_file_expander"},
        "webdataset.writer": {"TarWriter"},
    }
    texts = [path.read_text() for path in Path(strict.__file__).parents[1].rglob("*.py")]
    for text in (text for text in texts if "webdataset" in text):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "webdataset":
                assert {name.name for name in node.names} <= allowed[node.module or ""]
            assert not (isinstance(node, ast.Import) and any(name.name.startswith("webdataset") for name in node.names))
