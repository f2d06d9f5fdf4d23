"""What is measured is not trained on, however its place is given, and what is said of that is true."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imtok.data.base import Data
from imtok.data.sources.folder import Folder
from imtok.data.sources.imagenet import ImageNet
from imtok.data.sources.mixture import Mixture
from imtok.data.sources.webdataset import Tars, WebDataset
from imtok.errors import InputError

Picture = Callable[[int], bytes]


def pictures(data: Data, split: str) -> list[bytes]:
    """The files of the images of "train" or "val"."""
    images: Any = data.train(8, 0) if split == "train" else data.validation(8)
    return [images.source.read(at) for at in range(len(images))]


def remarks(data: Data) -> tuple[str, ...]:
    images: Any = data.train(8, 0)
    return images.remarks


def tree(root: Path, picture: Picture) -> Path:
    """Eight images in two folders, of which ``sub`` holds three."""
    for at in range(8):
        path = root / ("sub" if at < 3 else "rest") / f"{at}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(at))
    return root


@pytest.mark.parametrize("way", ["inside", "outside", "folder link", "file links", "hard links"])
def test_held_out_files_of_the_folder_are_not_trained_on(way: str, tmp_path: Path, picture: Picture):
    root = tree(tmp_path / "mine", picture)
    val = tmp_path / "held"
    if way == "inside":
        val = root / "sub"
    elif way == "outside":  # the files lie elsewhere, and path has a link to them
        (root / "sub").rename(val)
        (root / "sub").symlink_to(val)
    elif way == "folder link":
        val.symlink_to(root / "sub")
    else:
        val.mkdir()
        for at in range(3):
            make = os.symlink if way == "file links" else os.link
            make(root / "sub" / f"{at}.png", val / f"other{at}.png")
    for data in (Folder(root, val_path=val), ImageNet(root, val_path=val)):
        assert pictures(data, "val") == [picture(at) for at in range(3)]
        assert pictures(data, "train") == [picture(at) for at in range(3, 8)]
        assert data.measures_apart
        message = f"3 of 8 images of data.path={root} are also in data.val_path={val}, and therefore not trained on"
        assert message in remarks(data)
        assert len(data.evaluation(8, "all")) == 8  # pyright: ignore[reportArgumentType]


def test_files_that_are_not_held_out_are_trained_on_in_their_own_order(tmp_path: Path, picture: Picture):
    root = tree(tmp_path / "mine", picture)
    (tmp_path / "val").mkdir()
    (tmp_path / "val/0.png").write_bytes(picture(0))  # a copy is another file
    (root / "rest/gone.png").symlink_to(tmp_path / "absent")
    (tmp_path / "val/gone.png").symlink_to(tmp_path / "absent")
    alone, beside = Folder(root), Folder(root, val_path=tmp_path / "val")
    assert beside.train(8, 0).digest == alone.evaluation(8).digest  # pyright: ignore
    assert remarks(beside) == ()


def test_copies_of_trained_images_under_their_own_names_are_named(tmp_path: Path, picture: Picture):
    root = tree(tmp_path / "mine", picture)
    (tmp_path / "val/rest").mkdir(parents=True)
    for at in (4, 5, 6):
        (tmp_path / f"val/rest/{at}.png").write_bytes(picture(at if at != 5 else 50))
    (tmp_path / "val/new.png").write_bytes(picture(99))
    data = Folder(root, val_path=tmp_path / "val")
    assert not data.measures_apart
    whose = f"images of data.val_path={tmp_path}/val are copies of images of data.path={root}"
    assert remarks(data) == (f"{whose}, which are trained on: rest/4.png and rest/6.png",)
    assert pictures(data, "train") == [picture(at) for at in (3, 4, 5, 6, 7, 0, 1, 2)]


@pytest.mark.parametrize("val", ["mine", "mine/../mine", "link", "."])
def test_a_path_that_is_all_held_out_is_refused(val: str, tmp_path: Path, picture: Picture):
    root = tree(tmp_path / "mine", picture)
    (tmp_path / "link").symlink_to(root)
    message = rf"data\.val_path={tmp_path / val} holds every image of data\.path={root}, so that none is left .*; give "
    with pytest.raises(InputError, match=message):
        Folder(root, val_path=tmp_path / val).train(8, 0)


@pytest.mark.parametrize("kind", [Tars, WebDataset])
def test_held_out_shards_of_the_path_are_not_trained_on(
    kind: type[Tars | WebDataset], tmp_path: Path, picture: Picture, write_shard: Callable[..., Path]
):
    for shard in range(3):
        members = [(f"{shard}{at}.png", picture(10 * shard + at)) for at in range(2)]
        write_shard(tmp_path / f"{shard}.tar", members)
    (tmp_path / "val.link.tar").symlink_to(tmp_path / "1.tar")
    data = kind(f"{tmp_path}/[0-9].tar", val_path=tmp_path / "val.link.tar")
    assert pictures(data, "val") == [picture(10), picture(11)]
    assert pictures(data, "train") == [picture(at) for at in (0, 1, 20, 21)]
    with pytest.raises(InputError, match=r"holds every image of data\.path"):
        kind(f"{tmp_path}/[0-9].tar", val_path=f"{tmp_path}/{{0..2}}.tar").train(8, 0)


def test_held_out_shards_of_a_stream_are_not_trained_on():
    data = WebDataset("https://host/{000..003}.tar", val_path="https://host/{003..004}.tar")
    training: Any = data.train(8, 0)
    assert [shard.name for shard in training.shards] == ["000.tar", "001.tar", "002.tar"]
    assert training.remarks == (
        "1 of 4 shards of data.path=https://host/{000..003}.tar is also in data.val_path=https://host/{003..004}.tar, "
        "and therefore not trained on",
    )
    assert data.evaluation(8, "train").shards == training.shards  # pyright: ignore[reportAttributeAccessIssue]
    assert len(data.evaluation(8, "all").shards) == 4  # pyright: ignore[reportAttributeAccessIssue]
    assert [shard.name for shard in data.validation(8).shards] == ["003.tar", "004.tar"]  # pyright: ignore
    assert data.measures_apart
    with pytest.raises(InputError, match=r"holds every shard of data\.path=https://host/0\.tar"):
        WebDataset("https://host/0.tar", val_path="https://host/{0..1}.tar").train(8, 0)


def test_one_image_is_not_said_to_be_held_out(tmp_path: Path, picture: Picture):
    (tmp_path / "only.png").write_bytes(picture(0))
    one = Folder(tmp_path)
    assert not one.measures_apart
    assert remarks(one) == (f"data.path={tmp_path} is one image, which is trained on and measured",)
    assert not Mixture({"a": one}, {"a": 1.0}).measures_apart
    (tmp_path / "two.png").write_bytes(picture(1))
    assert Folder(tmp_path).measures_apart
    assert remarks(Folder(tmp_path)) == ()


def test_a_part_that_trains_on_what_another_part_holds_out_is_named(tmp_path: Path, picture: Picture):
    root = tree(tmp_path / "mine", picture)
    parts = {"whole": Folder(root, val_path=root / "sub"), "half": Folder(root, val_path=root / "rest")}
    mixed = Mixture(parts, {"whole": 1.0, "half": 1.0})
    assert not mixed.measures_apart
    assert remarks(mixed)[-2:] == (
        "5 images of data.parts.whole are trained on, although data.parts.half holds them out",
        "3 images of data.parts.half are trained on, although data.parts.whole holds them out",
    )
    alike = Mixture({name: Folder(root, val_path=root / "sub") for name in "ab"}, {"a": 1.0, "b": 1.0})
    assert alike.measures_apart


@pytest.mark.parametrize(("count", "words"), [(1, "of which some were trained on"), (4, "held out of training")])
def test_the_end_of_a_run_says_held_out_only_where_it_is_so(
    count: int,
    words: str,
    tmp_path: Path,
    picture: Picture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    from hydra import compose, initialize_config_dir
    from training.runs import tiny_overrides

    from imtok.commands import train
    from imtok.config import register_schemas
    from imtok.folders import config_folder

    for at in range(count):
        (tmp_path / f"{at}.png").write_bytes(picture(at))
    overrides = tiny_overrides(tmp_path / "run", "data=folder", f"data.path={tmp_path}", "trainer.max_steps=4")
    monkeypatch.setattr(train, "output_folder", lambda *_: tmp_path / "run")  # Hydra's own is asked for it otherwise
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        train.run(compose("train", overrides=overrides))
    assert words in capsys.readouterr().out
