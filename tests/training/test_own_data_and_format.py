"""A data source and a format in a package of one's own, from training to the files for a generator."""

import json
import sys

import pytest

from imtok import cli

PARTS = '''
import io

import numpy as np
from PIL import Image

from imtok.data.base import Data
from imtok.data.images import ImageSet, Source
from imtok.data.reading.transforms import CentreCrop
from imtok.export.formats.base import Format


class Discs(Source):
    """Discs of many sizes, drawn when they are read."""

    classes = ["small", "large"]

    def __init__(self, first: int, count: int) -> None:
        self.numbers = range(first, first + count)

    def __len__(self):
        return len(self.numbers)

    def read(self, index):
        across = np.hypot(*np.mgrid[-1:1:24j, -1:1:24j]) < self.numbers[index] / 40
        file = io.BytesIO()
        Image.fromarray(np.stack([across * 255] * 3, -1).astype(np.uint8)).save(file, "png")
        return file.getvalue()

    def key(self, index):
        return f"disc {self.numbers[index]}"

    def label(self, index):
        return int(self.numbers[index] > 20)

    def record(self, index):
        return self.key(index)


class DiscData(Data):
    def __init__(self, count: int = 16) -> None:
        self.count = count

    def train(self, image_size, seed):
        return ImageSet(Discs(0, self.count), CentreCrop(image_size), seed, training=True)

    def evaluation(self, image_size, split=None):
        sources = {"train": Discs(0, self.count), "val": Discs(self.count, 8), "all": Discs(0, self.count + 8)}
        return ImageSet(sources[split or "val"], CentreCrop(image_size))


class Lines(Format):
    """A line of ids for each image."""

    def __init__(self, between: str = " ") -> None:
        self.between = between

    def write(self, store, folder):
        with (folder / "ids.txt").open("w") as file:
            for shard in store.shards():
                for views in shard.ids:
                    file.write(self.between.join(map(str, views[0, :, 0])) + "\\n")
        return {"between": self.between}
'''
SHORT = (
    "quantizer=fsq", "encoder.width=16", "encoder.depth=1", "decoder.width=16", "decoder.depth=1",
    "decoder.up_channels=[]", "image_size=16", "trainer.max_steps=2", "trainer.batch_size=4", "trainer.workers=0",
    "trainer.accelerator=cpu", "trainer.pictures_every=0", "trainer.threads=1",
)  # fmt: skip


@pytest.fixture
def package(tmp_path, monkeypatch):
    """``toy_discs.parts``, with a YAML file for the data and one for the format."""
    (tmp_path / "toy_discs").mkdir()
    (tmp_path / "toy_discs/__init__.py").write_text("")
    (tmp_path / "toy_discs/parts.py").write_text(PARTS)
    for section, text in {"data": "DiscData\ncount: 16", "format": "Lines\nbetween: ' '"}.items():
        (tmp_path / "conf" / section).mkdir(parents=True)
        (tmp_path / "conf" / section / "discs.yaml").write_text(f"_target_: toy_discs.parts.{text}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("IMTOK_PACKAGES", "toy_discs")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("toy_discs", "toy_discs.parts"):
        sys.modules.pop(name, None)


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["imtok", *map(str, words)])
    cli.main()


def test_images_and_files_of_ones_own_kind_go_through_every_command(package, monkeypatch, capsys):
    conf = "hydra.searchpath=[file://conf]"
    run(monkeypatch, "train", conf, "data=discs", "data.count=20", *SHORT, "out=run")
    assert json.loads((package / "run/evaluation/report.json").read_text())["images"] == 8
    run(monkeypatch, "eval", "tokenizer=run", "out=report")  # on what the run held out
    assert json.loads((package / "report/report.json").read_text())["images"] == 8
    run(monkeypatch, "eval", conf, "tokenizer=run", "data=discs", "split=all", "out=more")
    assert json.loads((package / "more/report.json").read_text())["images"] == 24
    run(monkeypatch, "export", "tokenizer=run", "split=all", "out=tokens")
    run(monkeypatch, "convert", conf, "store=tokens", "format=discs", "format.between=','", "out=lines")
    lines = (package / "lines/ids.txt").read_text().splitlines()
    assert (len(lines), {len(line.split(",")) for line in lines}) == (28, {4})
    run(monkeypatch, "verify", "lines")
    assert "lines" in capsys.readouterr().out


def test_a_package_that_is_not_trusted_gives_no_data_to_a_stored_run(package, monkeypatch, capsys):
    run(monkeypatch, "train", "hydra.searchpath=[file://conf]", "data=discs", *SHORT, "out=run")
    monkeypatch.delenv("IMTOK_PACKAGES")
    with pytest.raises(SystemExit):
        run(monkeypatch, "eval", "tokenizer=run", "out=report")
    assert "data._target_ must be a class of imtok in a stored config, got 'toy_discs" in capsys.readouterr().err
