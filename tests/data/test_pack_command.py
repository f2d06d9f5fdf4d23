"""``imtok pack`` as a user asks for it: which images are taken, and what is refused before anything is written."""

import re
from pathlib import Path

import pytest

from imtok.build import build_part
from imtok.commands.pack import Keys, run_pack
from imtok.config import check_command
from imtok.data.archives.shards import ShardSource
from imtok.data.sources.folder import Folder
from imtok.data.sources.photos import Photos
from imtok.data.sources.webdataset import WebDataset
from imtok.errors import InputError


def count(folder: Path) -> int:
    return len(ShardSource(sorted(folder.glob("*.tar"))))


def test_all_images_of_a_folder_or_one_side_of_it_are_packed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    sides = {"all": count, "train": count, "val": count}
    for split in sides:
        run_pack(Keys(out=str(tmp_path / split), split=split), Folder(folder, val_fraction=0.3))
    run_pack(Keys(out=str(tmp_path / "none")), Folder(folder))
    counts = {split: count(tmp_path / split) for split in (*sides, "none")}
    assert counts["all"] == counts["none"] == counts["train"] + counts["val"] == 23
    assert re.search(r"images\s+│\s+23\b", capsys.readouterr().out)


def test_data_that_holds_out_images_must_be_told_which_to_pack(folder: Path, tmp_path: Path):
    for data in (Folder(folder, val_path=folder), Photos()):
        with pytest.raises(InputError, match="split must be train, val or all"):
            run_pack(Keys(out=str(tmp_path / "out")), data)
    with pytest.raises(InputError, match="remote shards, which are shards already"):
        run_pack(Keys(out=str(tmp_path / "out")), WebDataset("memory://set/{0..3}.tar"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "override",
    [
        "encode=gif", "quality=0", "quality=101", "shard_images=0", "shard_megabytes=0", "resize=0", "workers=-1",
        "shuffle=-1", "split=tset", "image_size=0", "sharde_images=5",
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(override: str):
    with pytest.raises(InputError, match=f"{override.partition('=')[0]}"):
        check_command("pack", ["data.path=somewhere", "out=there", override])


def test_an_opener_and_a_mixture_are_named_in_a_config(folder: Path):
    check_command("train", ["data=webdataset", "data.path=x", "data.opener={_target_:collections.Counter}"])
    more = ["+data@data.parts.more=tars", "data.parts.more.path=x", "+data.weights.more=2"]
    check_command("train", ["data=mixture", "data.parts.folder.path=x", *more])
    plain = {"data": {"_target_": "imtok.data.sources.webdataset.WebDataset", "path": "a://b/c.tar", "opener": OPENER}}
    assert type(build_part(plain, "data").opener).__name__ == "Local"


class Local:
    """Opens nothing."""

    def __call__(self, url: str) -> None:
        """Nothing."""


OPENER = {"_target_": f"{Local.__module__}.Local"}
