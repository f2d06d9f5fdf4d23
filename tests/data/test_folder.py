"""Folders of images: what is found, how it is named and split."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from imtok.commands.check import run_check
from imtok.commands.pack import Keys, run_pack
from imtok.data.images import ImageSet
from imtok.data.remarks import say_remarks
from imtok.data.sources.folder import Folder
from imtok.data.sources.imagenet import ImageNet
from imtok.errors import InputError


def keys(images: ImageSet) -> list[str]:
    return [images.source.key(index) for index in range(len(images))]


def test_classes_are_the_first_level_and_keys_are_sorted_paths(tmp_path: Path, picture: Callable[[int], bytes]):
    names = ["b/deep/1.PNG", "a/2.jpeg", "a/1.JPG", "flat.webp", "c/x.png"]
    for seed, name in enumerate([*names, ".hidden.png", "a/.2.png", ".git/3.png", "a/notes.txt", "c/table.csv"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(seed))
    images = Folder(tmp_path).evaluation(8)
    assert keys(images) == sorted(names)
    assert images.source.classes == ["a", "b", "c"]
    assert [images.source.label(index) for index in range(5)] == [0, 0, 1, 2, -1]
    assert all(images[0, index].bad == () for index in range(5)), "the type is told by content, not by name"


def test_links_are_followed_but_not_in_circles(tmp_path: Path, picture: Callable[[int], bytes]):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "1.png").write_bytes(picture(1))
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a" / "folder").symlink_to(elsewhere)
    (root / "a" / "file.png").symlink_to(elsewhere / "1.png")
    (root / "a" / "circle").symlink_to(root)
    (root / "a" / "nothing.png").symlink_to(tmp_path / "absent.png")
    os.mkfifo(root / "a" / "pipe.png")
    images = Folder(root).evaluation(8)
    assert "skipped 1 file of" in images.remarks[0]
    assert "1 pipe, socket or device" in images.remarks[0]
    assert keys(images) == ["a/file.png", "a/folder/1.png", "a/nothing.png"]
    assert images[0, 2].bad == ("a/nothing.png: No such file or directory",)


def test_names_that_are_not_text_are_read_and_keys_stay_one_line(tmp_path: Path, picture: Callable[[int], bytes]):
    for name in (b"caf\xe9.png", b"line\nbreak.png", "größe.png".encode()):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(picture(0))
    images = Folder(tmp_path).evaluation(8)
    assert keys(images) == [r"caf\xe9.png", "größe.png", r"line\nbreak.png"]
    assert all(images[0, index].bad == () for index in range(3))
    assert len(images.digest) == 64


def test_the_held_out_part_is_disjoint_complete_and_stable(folder: Path, picture: Callable[[int], bytes]):
    data = Folder(folder, val_fraction=0.3)
    train, held_out = set(keys(data.train(8, 0))), set(keys(data.validation(8)))
    assert train.isdisjoint(held_out)
    assert train | held_out == set(keys(data.evaluation(8)))
    assert 0.1 < len(held_out) / 23 < 0.55
    for seed in range(100, 130):
        (folder / "a" / f"{seed}.png").write_bytes(picture(seed))
    more = Folder(folder, val_fraction=0.3)
    assert train <= set(keys(more.train(8, 0)))
    assert held_out <= set(keys(more.validation(8)))


@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1 - 1e-9])
def test_two_images_are_one_and_one(fraction: float, tmp_path: Path, picture: Callable[[int], bytes]):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(picture(0))
    data = Folder(tmp_path, val_fraction=fraction)
    assert len(data.train(8, 0)) == len(data.validation(8)) == 1


def test_one_image_is_on_both_sides(tmp_path: Path, picture: Callable[[int], bytes]):
    (tmp_path / "only.png").write_bytes(picture(0))
    assert keys(Folder(tmp_path).train(8, 0)) == keys(Folder(tmp_path).validation(8)) == ["only.png"]


def test_a_validation_path_leaves_the_whole_path_to_training(folder: Path, tmp_path: Path, picture: Callable):
    for name in ("b/1.png", "new/1.png"):
        (tmp_path / "val" / name).parent.mkdir(parents=True)
        (tmp_path / "val" / name).write_bytes(picture(0))
    data = Folder(folder, val_path=tmp_path / "val")
    assert len(data.train(8, 0)) == len(data.evaluation(8)) == 23
    validation = data.validation(8)
    assert [(key, validation.source.label(i)) for i, key in enumerate(keys(validation))] == [
        ("b/1.png", 1),
        ("new/1.png", -1),
    ]


def test_the_digest_sees_renamed_moved_and_replaced_files(folder: Path):
    digests = [Folder(folder).train(8, 0).digest]
    assert Folder(folder).train(8, 1).digest == digests[0]
    (folder / "a" / "00.png").rename(folder / "a" / "000.png")
    digests.append(Folder(folder).train(8, 0).digest)
    (folder / "a" / "000.png").rename(folder / "b" / "000.png")
    digests.append(Folder(folder).train(8, 0).digest)
    for path in folder.rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"x")
    digests.append(Folder(folder).train(8, 0).digest)
    assert len(set(digests)) == 4


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("absent", "does not exist; give a folder"),
        ("file.png", "is a file; give a folder"),
        ("empty", "holds no image; give a folder"),
        ("others", "holds only 2 .tif, 1 .gif; give a folder of JPEG"),
    ],
)
def test_a_path_without_images_is_refused_with_the_reason(path: str, reason: str, tmp_path: Path):
    (tmp_path / "file.png").write_bytes(b"x")
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    (tmp_path / "others").mkdir()
    for name in ("1.tif", "2.TIF", "3.gif"):
        (tmp_path / "others" / name).write_bytes(b"x")
    with pytest.raises(InputError, match=f"data.path=.*{path} {reason}"):
        Folder(tmp_path / path).train(8, 0)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("val_fraction", 0.0, "val_fraction must"),
        ("val_fraction", 1.0, "val_fraction must"),
        ("background", (1, 2), "background must"),
        ("background", (1, 2, 256), "background must"),
        ("max_pixels", 0, "max_pixels must"),
        ("scale", (1.0, 0.5), "scale must"),
    ],
)
def test_arguments_out_of_range_are_refused(argument: str, value: object, message: str):
    with pytest.raises(ValueError, match=message):
        Folder("anywhere", **{argument: value})


ODD = ("1.heic", "b/2.HEIC", "3.gif", "b/4.tiff", "5.bmp", "6.jpg_large", "7.jpg.1", "b/8.jpeg~", "9.png_", "10.cr2")


@pytest.fixture
def odd(folder: Path) -> Path:
    """A folder of images that holds pictures of kinds that are not read too, and files that are none."""
    for name in (*ODD, "notes.txt", "1.heic.json", "a.jpg.txt", "LICENSE", "labels.npy", ".hidden.heic"):
        (folder / name).write_bytes(b"no picture")
    (folder / "a" / "0a1b2c").write_bytes((folder / "a" / "00.png").read_bytes())
    return folder


def test_pictures_of_kinds_that_are_not_read_are_counted_by_kind_and_the_rest_is_not(odd: Path):
    (remark,) = Folder(odd).train(8, 0).remarks
    kinds = (
        "2 .heic, 1 .gif, 1 .tiff, 1 .bmp, 1 .jpg_large, 1 .jpg.1, 1 .jpeg~, 1 .png_, 1 .cr2, 1 PNG without a suffix"
    )
    start, _, rest = remark.partition(": ")
    assert start == f"skipped 11 files of {odd} that imtok does not read"
    assert sorted(rest.partition(";")[0].split(", ")) == sorted(kinds.split(", "))
    images = Folder(odd, val_path=odd / "b").evaluation(8, "all")
    assert len([line for line in images.remarks if "skipped" in line]) == 1
    assert ImageNet(odd).train(8, 0).remarks == (remark,)
    assert Folder(odd / "a").train(8, 0).remarks[0].startswith("skipped 1 file of")


def test_check_and_pack_say_once_what_is_skipped(odd: Path, tmp_path: Path, capsys, caplog):
    assert run_check([str(odd)]) == 0
    assert capsys.readouterr().out.count("skipped 11 files of") == 1
    run_pack(Keys(out=str(tmp_path / "packed"), image_size=8), Folder(odd))
    assert [record.getMessage()[:19] for record in caplog.records if "skipped" in record.getMessage()] == [
        "skipped 11 files of"
    ]


def test_other_processes_do_not_repeat_a_remark(monkeypatch, caplog):
    monkeypatch.setenv("RANK", "1")
    say_remarks(["skipped 1 file"])
    assert not caplog.records
    monkeypatch.setenv("RANK", "0")
    say_remarks(["skipped 1 file", "skipped 2 files", "skipped 1 file"], said=["skipped 2 files"])
    assert [record.getMessage() for record in caplog.records] == ["skipped 1 file"]


def test_an_unknown_split_is_refused(folder: Path):
    with pytest.raises(ValueError, match="split must be one of train, val, all, got 'test'"):
        Folder(folder).evaluation(8, "test")


def test_max_pixels_and_background_reach_the_decoder(tmp_path: Path):
    from PIL import Image

    Image.new("LA", (9, 9), (0, 0)).save(tmp_path / "clear.png")
    data = Folder(tmp_path, background=[1, 2, 3])
    assert data.validation(8)[0, 0].image[:, 0, 0].tolist() == [1, 2, 3]  # pyright: ignore
    assert "max_pixels=80" in Folder(tmp_path, max_pixels=80).evaluation(8)[0, 0].bad[0]


@pytest.mark.parametrize("flip", [False, True])
def test_centre_crops_are_the_same_in_every_epoch_but_for_mirroring(flip: bool, folder: Path):
    data = Folder(folder, crop="centre", flip=flip)
    images, fixed = data.train(8, seed=0), data.evaluation(8, "train")
    mirrored = 0
    for index in range(len(images)):
        expected = fixed[0, index].image
        for epoch in range(4):
            square = images[epoch, index].image
            mirrored += torch.equal(square, expected.flip(-1)) and not torch.equal(square, expected)
            assert torch.equal(square, expected) or (flip and torch.equal(square, expected.flip(-1)))
    assert mirrored == 0 if not flip else len(images) < mirrored < 3 * len(images)
