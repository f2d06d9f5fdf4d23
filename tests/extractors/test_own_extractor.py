"""An extractor in a package of one's own: no file of imtok is touched, and nothing that it gets wrong is hidden."""

import json
import sys

import numpy as np
import pytest
from measures.tiny import batches, tokenizer
from PIL import Image

from imtok import cli
from imtok.errors import InputError
from imtok.measures.chosen import built
from imtok.measures.evaluate import evaluate
from imtok.measures.protocol import Protocol
from imtok.measures.settings import Settings

NETS = '''
import torch
from imtok.extractors.base import Extractor, Features
from imtok.extractors.inception import Inception
from imtok.weights import identity


class Net(Extractor):
    """Mean levels of parts of an image: nothing to learn, no weights."""

    def __init__(self, places: int = 2, wrong: str | None = None) -> None:
        super().__init__()
        self.pool, self.wrong = torch.nn.AdaptiveAvgPool2d(places), wrong
        self.name = {"name": "a/b", "taken": "inception_tf"}.get(wrong, f"mine_{places}")
        self.dim = 3 * places**2 + (wrong == "dim")
        self.hash = "v1" if wrong == "hash" else identity(net="mine", places=places)
        if wrong == "error":
            raise OSError("no such disk\\nat all")

    def extract(self, levels):
        features = self.pool(levels).flatten(1)
        return features if self.wrong == "tensor" else Features(features, features[:, :5])

    @property
    def distance(self):
        return "fid_mine" if self.wrong == "fid" else super().distance


class Cropped(Inception):
    pass


class Other:
    pass
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package beside a tokenizer and images, and the folder as the working directory."""
    (tmp_path / "own_nets.py").write_text(NETS)
    (tmp_path / "conf/extractor").mkdir(parents=True)
    (tmp_path / "conf/extractor/mine.yaml").write_text("_target_: own_nets.Net\nplaces: 2\nwrong: null\n")
    tokenizer().save(tmp_path / "tokenizer")
    (tmp_path / "images").mkdir()
    (images,) = (batch.image.permute(0, 2, 3, 1).numpy() for batch in batches(range(12), 12))
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"images/{number:02}.png")
    np.savez(tmp_path / "others.npz", arr_0=255 - images)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_nets", None)


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["imtok", *words])
    cli.main()


def test_a_net_of_ones_own_is_measured_in_by_eval_and_score(package, monkeypatch):
    conf = ["hydra.searchpath=[file://conf]", "extractor=mine"]
    data = [
        "tokenizer=tokenizer",
        "data=folder",
        "data.path=images",
        "split=all",
        "metrics=[rfid,kid,is]",
        "cache=kept",
    ]
    run(monkeypatch, "eval", *conf, *data, "out=first")
    run(monkeypatch, "eval", *data, "+extractor={_target_:own_nets.Net,places:3}", "out=second")
    first, second = (json.loads((package / name / "report.json").read_text()) for name in ("first", "second"))
    assert set(first["metrics"]) == {
        f"{name}_mine_2" for name in ("fd", "kid", "inception_score", "inception_score_std")
    }
    assert "fd_mine_3" in second["metrics"]
    assert first["protocol"]["preset"] == "custom"
    assert first["protocol"]["overrides"] == ["extractor=own_nets.Net instead of inception_tf"]
    assert first["protocol_ids"]["fd_mine_2"]["extractor_hash"] != second["protocol_ids"]["fd_mine_3"]["extractor_hash"]
    assert len(list((package / "kept").iterdir())) == 2  # statistics of the originals for each

    run(monkeypatch, "score", *conf, "images=images", "reference=others.npz", "out=scored")
    found = json.loads((package / "scored/score.json").read_text())
    assert found["metrics"]["gfd_mine_2"] > 1
    assert {"precision_mine_2", "recall_mine_2", "kid_mine_2", "inception_score_mine_2"} <= set(found["metrics"])
    assert (found["protocol"]["extractor"], found["protocol"]["preset"]) == ("own_nets.Net", "custom")


def measured(section):
    protocol = Protocol("adm", extractor={"_target_": "own_nets.Net", **section}, key="extractor")
    return evaluate(tokenizer(), batches(range(4)), settings=Settings(("rfid",), protocol, skip_missing=True))


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"wrong": "name"}, r"extractor: Net: name must be a text of at most 100 letters, .*, got 'a/b'"),
        ({"wrong": "hash"}, r"extractor: Net: hash must be 64 hexadecimal digits, .*, got 'v1'"),
        ({"wrong": "dim"}, r"extractor: Net: dim must be the length of a feature vector, got 13 for \[1, 12\]"),
        ({"wrong": "tensor"}, r"extractor: Net: .*"),
        ({"wrong": "taken"}, r"extractor: Net: name must not be that of the net .*, got inception_tf"),
        ({"wrong": "fid"}, r"extractor: Net: name must not be that of the net .*, got fid_mine"),
        ({"wrong": "error"}, r"extractor: Net: no such disk"),
        ({"places": -1}, r"extractor: Net: .*"),
        ({"_target_": "own_nets.Other"}, r"extractor\._target_ must name a subclass of imtok.*Extractor, got own_nets"),
        (
            {"_target_": "own_nets.Gone"},
            r"extractor\._target_: cannot import own_nets\.Gone \(.* no attribute 'Gone'\)",
        ),
    ],
)
def test_what_a_net_gets_wrong_is_refused_in_one_line_even_where_metrics_may_be_left_out(section, said):
    with pytest.raises(InputError, match=f"^{said}") as caught:
        measured(section)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.usefixtures("package")
def test_a_subclass_of_the_inception_never_passes_for_it(inception_file):
    section = {"_target_": "own_nets.Cropped", "weights": str(inception_file), "sha256": None}
    assert Protocol("adm", extractor=section).settings["extractor"] == "own_nets.Cropped"
    assert Protocol("adm", extractor=section).title == "custom"
    with pytest.raises(InputError, match="name must not be that of the net which published values of FID are of"):
        built(section, "extractor")
