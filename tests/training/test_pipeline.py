"""A package of one's own with a pipeline: trained on, resumed, measured and exported."""

import json
import logging
import re
import sys

import pytest
from training.runs import run_tiny, write_images

from imtok import cli
from imtok.errors import InputError
from imtok.export.store import TokenStore

MINE = '''
from pathlib import Path


class Pictures:
    """A folder of images as samples."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __iter__(self):
        for number, path in enumerate(sorted(Path(self.folder).rglob("*.png"))):
            yield {"__key__": path.stem, "png": path.read_bytes(), "cls": number % 3, "txt": f"number {number}"}
'''


@pytest.fixture
def data(tmp_path, monkeypatch):
    (tmp_path / "package").mkdir()
    (tmp_path / "package/my_pictures.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path / "package"))
    folder = write_images(tmp_path / "images", 12)
    yield [
        "data=pipeline",
        f"data.pipeline={{_target_: my_pictures.Pictures, folder: {folder}}}",
        "data.val_fraction=0.3",
    ]
    sys.modules.pop("my_pictures", None)


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["imtok", *map(str, words)])
    cli.main()


def test_a_pipeline_of_ones_own_trains_resumes_and_is_measured_and_exported(
    data, tmp_path, monkeypatch, caplog, capsys
):
    run_tiny(tmp_path / "run", *data, "trainer.stop_at=3")
    with caplog.at_level(logging.INFO):
        outcome = run_tiny(tmp_path / "run", *data, "ckpt=last")
    said = [record.getMessage() for record in caplog.records if "begins anew" in record.getMessage()]
    assert said == [
        "data.pipeline does not say where the run stood in it, so the epoch begins anew with its first sample"
    ]
    assert "a pipeline (Pictures) to train on, a pipeline (Pictures) held out" in caplog.text
    assert outcome.report is not None
    assert 0 < outcome.report.images < 12
    # Of a stored config the package has to be named.
    tokenizer = f"tokenizer={tmp_path / 'run'}"
    with pytest.raises(SystemExit):
        run(monkeypatch, "eval", tokenizer, f"out={tmp_path / 'report'}")
    assert "a package of your own has to be named in the environment variable IMTOK_PACKAGES" in re.sub(
        r"\s+", " ", capsys.readouterr().err
    )
    monkeypatch.setenv("IMTOK_PACKAGES", "my_pictures")
    run(monkeypatch, "eval", tokenizer, f"out={tmp_path / 'report'}", "measure=psnr")
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert report["images"] == outcome.report.images
    # Given on the command line, it is the user's own config.
    monkeypatch.delenv("IMTOK_PACKAGES")
    run(monkeypatch, "export", tokenizer, *data, f"out={tmp_path / 'tokens'}")
    store = TokenStore(tmp_path / "tokens")
    store.verify()
    assert len(store) == 12
    shard = next(iter(store.shards()))
    assert shard.captions == [f"number {number}" for number in range(12)]
    assert shard.labels.tolist() == [number % 3 for number in range(12)]


def test_what_is_no_pipeline_is_refused_before_anything_is_written(data, tmp_path):
    own = "data.pipeline={_target_: webdataset.compat.WebDataset, urls: 'pipe:ls', shardshuffle: false}"
    for given, words in (
        (["data.pipeline={_target_: my_pictures.Nothing}"], "my_pictures.Nothing"),
        ([own.replace("compat.", "")], "got 'webdataset.WebDataset'; it is webdataset.compat.WebDataset"),
        ([own], "names the command 'pipe:ls', which is never run"),
        ([*data[1:], "data.val_fraction=0.0"], "val_fraction must lie between 0 and 1"),
    ):
        with pytest.raises((InputError, ValueError), match=words):
            run_tiny(tmp_path / "run", data[0], *given)
        assert not (tmp_path / "run").exists()
