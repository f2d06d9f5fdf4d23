"""Members of archives that are no plain files: read as tarfile reads them, or refused by name."""

import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from imtok.data.archives.remote import read_remote
from imtok.data.archives.shards import ShardSource
from imtok.data.archives.transport import RemoteShard
from imtok.data.check import check
from imtok.data.images import ImageSet
from imtok.data.sources.webdataset import Tars, WebDataset
from imtok.errors import InputError

Picture = Callable[[int], bytes]


def write(path: Path, *members: tuple[str, bytes | str, bytes], format: int = tarfile.GNU_FORMAT) -> Path:
    """An archive of (name, data or target, type)."""
    with tarfile.open(path, "w", format=format) as archive:
        for name, content, kind in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            if isinstance(content, str):
                member.linkname = content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def extracted(path: Path) -> dict[str, bytes]:
    """What tarfile finds in an archive, links followed."""
    with tarfile.open(path) as archive:
        files = {
            member.name.removeprefix("./"): archive.extractfile(member) for member in archive if not member.isdir()
        }
        return {name: file.read() for name, file in files.items() if file is not None}


def remote(path: Path) -> list:
    return list(read_remote([RemoteShard(f"file://{path}", path.name)], lambda url: path.open("rb")))


REG, HARD, SYM = tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("far", ["", "deep/" * 15, "ö" + "x" * 90 + "/"])
def test_links_inside_an_archive_are_read_as_tarfile_reads_them(
    far: str, format: int, tmp_path: Path, picture: Picture
):
    path = write(
        tmp_path / "0.tar",
        (f"{far}a.png", picture(1), REG),
        (f"{far}a.cls", b"3", REG),
        ("h.png", f"./{far}a.png", HARD),
        ("h.cls", f"{far}a.cls", HARD),
        ("s.png", f"{far}a.png", SYM),
        ("t.png", "s.png", SYM),
        (f"{far}u/v.png", "../a.png", SYM),
        ("w.png", "x.png", SYM),
        ("w.txt", "x.txt", SYM),
        ("x.png", picture(2), REG),
        ("x.txt", b"a cat", REG),
        ("y.png", "h.png", HARD),
        format=format,
    )
    source, truth = ShardSource([path]), extracted(path)
    assert {f"{source.stem(at)}.png": source.read(at) for at in range(len(source))} == {
        name: data for name, data in truth.items() if name.endswith(".png")
    }
    assert [source.label(at) for at in range(len(source))] == [3, 3, -1, -1, -1, -1, -1, -1]
    assert [source.caption(at) for at in range(5, 7)] == ["a cat", "a cat"]
    assert source.remarks == ("6 of 8 samples have no cls, and so no class",)


def test_a_hard_link_leads_to_the_file_that_was_there_before_it_and_else_to_a_later_one(
    tmp_path: Path, picture: Picture
):
    path = write(
        tmp_path / "0.tar",
        ("data", picture(1), REG),
        ("a.png", "data", HARD),
        ("b.png", "later", HARD),
        ("data", picture(2), REG),
        ("c.png", "data", HARD),
        ("later", picture(3), REG),
    )
    source = ShardSource([path])
    assert [source.read(at) for at in range(3)] == [picture(1), picture(3), picture(2)]


def test_tar_of_two_names_of_one_file_holds_two_images(tmp_path: Path, picture: Picture):
    (tmp_path / "a.png").write_bytes(picture(1))
    (tmp_path / "h.png").hardlink_to(tmp_path / "a.png")
    subprocess.run(["tar", "cf", "0.tar", "h.png", "a.png"], cwd=tmp_path, check=True)
    for data in (WebDataset(tmp_path), Tars(tmp_path)):
        images = data.evaluation(8)
        assert isinstance(images, ImageSet)
        assert [images.source.read(at) for at in range(len(images))] == [picture(1)] * 2


@pytest.mark.parametrize(
    ("kind", "target", "words"),
    [
        (HARD, "/etc/passwd", "'2.png' as a hard link to '/etc/passwd', which is not in it; .* --hard-dereference"),
        (SYM, "/etc/passwd", "'2.png' as a symbolic link to '/etc/passwd', which is not in it; .*--dereference"),
        (SYM, "../1.png", "'2.png' as a symbolic link to '../1.png', which is not in it"),
        (SYM, "2.png", "'2.png' as a symbolic link to '2.png', which is not in it"),
        (tarfile.CHRTYPE, "", "'2.png' as a device, which is not read"),
        (tarfile.BLKTYPE, "", "'2.png' as a device, which is not read"),
        (tarfile.FIFOTYPE, "", "'2.png' as a pipe, which is not read"),
        (b"M", "", "'2.png' as the rest of a file that begins in another archive"),
        (b"Z", "", "'2.png' as a member of type 'Z'"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name_wherever_it_lies(
    kind: bytes, target: str, words: str, tmp_path: Path, picture: Picture
):
    path = write(tmp_path / "0.tar", ("1.png", picture(1), REG), ("2.png", target, kind))
    for data in (WebDataset(tmp_path), Tars(tmp_path)):
        with pytest.raises(InputError, match=rf"0\.tar cannot be used: it holds {words}"):
            data.train(8, 0)
    assert "holds '2.png' as" in check(str(tmp_path)).faults[0]
    with pytest.raises(InputError, match=r"0\.tar cannot be used: it holds '2\.png' as .*; write it again"):
        remote(path)


@pytest.mark.parametrize("name", ["1.cls", "1.json", "1.txt"])
def test_a_field_that_cannot_be_read_is_refused_and_one_that_nobody_reads_is_not(
    name: str, tmp_path: Path, picture: Picture
):
    write(tmp_path / "0.tar", ("1.png", picture(1), REG), (name, "gone", SYM))
    with pytest.raises(InputError, match=f"'{name}' as a symbolic link"):
        WebDataset(tmp_path).train(8, 0)
    path = write(tmp_path / "0.tar", ("1.png", picture(1), REG), ("1.npy", "gone", SYM), ("f.png", "", tarfile.DIRTYPE))
    assert len(ShardSource([path])) == len(remote(path)) == 1


def test_a_stream_refuses_links_that_a_disk_can_follow(tmp_path: Path, picture: Picture):
    path = write(tmp_path / "0.tar", ("1.png", picture(1), REG), ("2.png", "1.png", HARD))
    assert len(ShardSource([path])) == 2
    with pytest.raises(
        InputError, match=r"'2\.png' as a hard link to '1\.png', and a stream cannot follow links; write"
    ):
        remote(path)


@pytest.mark.parametrize("format", ["gnu", "posix 0.0", "posix 0.1", "posix 1.0"])
def test_sparse_files_are_refused_by_name_and_passed_over_where_nobody_reads_them(
    format: str, tmp_path: Path, picture: Picture
):
    kind, _, version = format.partition(" ")
    options = [f"--format={kind}", "--sparse", *([f"--sparse-version={version}"] if version else [])]
    holes = tmp_path / "2.png"
    with holes.open("wb") as file:  # 30 pieces, so that the map goes on in blocks of its own
        for piece in range(30):
            file.seek(piece * 2**16)
            file.write(picture(1)[:100])
    holes.with_name("2.raw").write_bytes(b"")
    subprocess.run(["cp", "--sparse=always", "2.png", "2.raw"], cwd=tmp_path, check=True)
    for name in ("1.png", "3.png"):
        (tmp_path / name).write_bytes(picture(int(name[0])))
    path = tmp_path / "0.tar"
    subprocess.run(["tar", *options, "-cf", "0.tar", "1.png", "2.raw", "3.png"], cwd=tmp_path, check=True)
    with tarfile.open(path) as archive:
        assert [member.issparse() for member in archive] == [False, True, False]
    source = ShardSource([path])
    assert [source.read(at) for at in range(len(source))] == [picture(1), picture(3)]
    assert [image.data for image in remote(path)] == [picture(1), picture(3)]
    subprocess.run(["tar", *options, "-cf", "0.tar", "1.png", "2.png", "3.png"], cwd=tmp_path, check=True)
    words = (
        r"0\.tar cannot be used: it holds '2\.png' as a sparse file, which is not read; write it again without --sparse"
    )
    with pytest.raises(InputError, match=words):
        ShardSource([path])
    with pytest.raises(InputError, match=words):
        remote(path)


def test_a_global_header_that_renames_members_is_refused_and_a_comment_is_not(tmp_path: Path, picture: Picture):
    for header, fine in (({"comment": "of git"}, True), ({"path": "x.png"}, False), ({"GNU.sparse.major": "1"}, False)):
        with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.PAX_FORMAT, pax_headers=header) as archive:
            member = tarfile.TarInfo("1.png")
            member.size = len(picture(1))
            archive.addfile(member, io.BytesIO(picture(1)))
        if fine:
            assert len(ShardSource([tmp_path / "0.tar"])) == 1
        else:
            with pytest.raises(InputError, match="global header that sets"):
                ShardSource([tmp_path / "0.tar"])
