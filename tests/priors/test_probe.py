"""A probe of a tokenizer: one command, whose stages are done once each."""

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from export.stores import PARTS, VQ
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from imtok.build import build_data
from imtok.commands import probe
from imtok.commands.compare import compare_folders
from imtok.config import read_keys, register_schemas
from imtok.errors import InputError
from imtok.export.store import TokenStore
from imtok.folders import config_folder
from imtok.measures.report.compare import read_report
from imtok.pixels import to_uint8
from imtok.priors.probing import write_originals
from imtok.priors.rows import TokenRows
from imtok.tokenizer import Tokenizer
from imtok.types import Tokens

WORDS = (
    "data=photos", "data.crops_per_photo=2", "prior.trunk.width=16", "prior.trunk.depth=1", "prior.trunk.heads=2",
    "trainer.max_steps=4", "trainer.batch_size=4", "trainer.accelerator=cpu", "trainer.threads=1",
    "trainer.save_every=2", "n=6",
)  # fmt: skip
_SLOW = ("export_tokens", "write_samples", "write_unigram")
STAGES = ["train_on_tokens", "measure", *(pytest.param(name, marks=pytest.mark.slow) for name in _SLOW)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tokenizers") / "mine"
    Tokenizer.from_config({**PARTS, "quantizer": VQ}).save(folder)
    return folder


def config_of(folder, tokenizer, *words):
    register_schemas("probe")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose("probe", [*WORDS, f"tokenizer={tokenizer}", f"out={folder}", *words])


def keys_of(folder, tokenizer, *words):
    return read_keys(config_of(folder, tokenizer, *words), probe.Keys)


def probed(folder, tokenizer, *words):
    return probe.run_probe(config_of(folder, tokenizer, *words), folder, "imtok probe")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("probes") / "whole"
    return folder, probed(folder, tokenizer)


def test_a_report_says_bits_and_distances_and_the_id_of_the_probe(whole):
    folder, report = whole
    stored = read_report(folder)
    assert {"bits_per_image", "gfd_efflite0_224", "rfd_efflite0_224", "unigram_gfd_efflite0_224"} <= stored[
        "metrics"
    ].keys()
    assert all(math.isfinite(value) for value in stored["metrics"].values())
    ids = {one["id"] for one in stored["protocol_ids"].values()}
    assert len(ids) == 1
    assert stored["protocol_ids"].keys() == stored["metrics"].keys()
    assert (folder / "samples.png").is_file()
    with np.load(folder / "samples" / "samples.npz") as found:
        assert found["arr_0"].shape == (6, 16, 16, 3)
    assert report.higher_is_better["precision_efflite0_224"] is True
    assert report.higher_is_better["gfd_efflite0_224"] is False


def test_samples_are_held_against_images_from_all_over_the_data(whole, tokenizer):
    """In a data set in the order of its classes, the first images are of the first classes."""
    folder, _ = whole
    config = config_of(folder, tokenizer)
    images = build_data(OmegaConf.to_container(config, resolve=True)).evaluation(16, "val")
    chosen = [number * len(images) // 6 for number in range(6)]
    assert len(images) > 12
    with np.load(folder / "reference/pixels.npz") as found:
        expected = [images[(0, number)].image.permute(1, 2, 0).numpy() for number in chosen]
        assert np.array_equal(found["arr_0"], np.stack(expected))
    store, net = TokenStore(folder / "held_out"), Tokenizer.load(tokenizer)
    rows = [row[0] for row in TokenRows(store).some(6)]
    again = to_uint8(net.decode(Tokens(torch.from_numpy(np.stack(rows))), (16, 16))).permute(0, 2, 3, 1).numpy()
    assert [TokenRows(store)[number][0].tolist() for number in chosen] == [row.tolist() for row in rows]
    with np.load(folder / "reconstructions/pixels.npz") as found:
        assert np.array_equal(found["arr_0"], again)


def test_of_a_stream_the_same_images_are_taken_as_it_passes(tmp_path):
    images = torch.randint(0, 256, (10, 3, 4, 4), dtype=torch.uint8)
    batches = [SimpleNamespace(image=part) for part in images.split(3)]
    write_originals(batches, tmp_path, np.array([0, 3, 4, 7]))
    with np.load(tmp_path / "pixels.npz") as found:
        assert np.array_equal(found["arr_0"], images[[0, 3, 4, 7]].permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("stage", STAGES)
def test_a_probe_that_was_cut_off_ends_with_the_same_numbers(whole, tokenizer, tmp_path, monkeypatch, stage):
    real, calls = getattr(probe, stage), []

    def cut(*given, **more):
        calls.append(stage)
        if len(calls) == 1:
            real(*given, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(probe, stage, cut)
    with pytest.raises(KeyboardInterrupt):
        probed(tmp_path / "probe", tokenizer)
    monkeypatch.undo()
    assert not (tmp_path / "probe" / "report.json").exists()
    assert probed(tmp_path / "probe", tokenizer).metrics == whole[1].metrics


def test_what_is_done_is_not_done_again(whole, tokenizer):
    files = {path: path.stat().st_mtime_ns for path in whole[0].rglob("*.npz")}
    assert probed(whole[0], tokenizer).metrics == whole[1].metrics
    assert {path: path.stat().st_mtime_ns for path in whole[0].rglob("*.npz")} == files


def test_another_extractor_measures_anew_and_its_numbers_are_its_own(whole, tokenizer, tmp_path):
    shutil.copytree(whole[0], tmp_path / "probe")
    plan = json.loads((tmp_path / "probe" / "score.json").read_text())
    plan["facts"]["rounding"], plan["metrics"] = "truncate", {"gfd_another": 1.0}
    (tmp_path / "probe" / "score.json").write_text(json.dumps(plan))
    assert probed(tmp_path / "probe", tokenizer).metrics == whole[1].metrics


def test_what_ends_a_prior_early_makes_another_probe(whole, tokenizer):
    stops = ("callback=early_stopping", "callback.early_stopping.monitor=bits_per_token", "trainer.evaluate_every=2")
    with pytest.raises(InputError, match="a probe with another callback"):
        probed(whole[0], tokenizer, *stops)


def test_a_probe_of_one_sample_is_refused_before_any_work(tokenizer, tmp_path):
    assert any("n must be at least 2" in line for line in keys_of(tmp_path, tokenizer, "n=1").check())


def test_another_probe_in_the_folder_is_refused_by_what_differs(whole, tokenizer, tmp_path):
    with pytest.raises(InputError, match="a probe with another prior"):
        probed(whole[0], tokenizer, "prior.trunk.width=32")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        probed(tmp_path, tokenizer)


def test_another_seed_is_a_probe_of_the_same_id_and_another_one_in_a_folder(whole, tokenizer, tmp_path):
    other = probed(tmp_path / "probe", tokenizer, "seed=1")
    assert other.metrics != whole[1].metrics
    assert {one["id"] for one in other.ids.values()} == {one["id"] for one in whole[1].ids.values()}
    with pytest.raises(InputError, match="a probe with another seed"):
        probed(whole[0], tokenizer, "seed=1")


def test_numbers_of_unlike_probes_are_never_compared(whole, tmp_path):
    report = json.loads((whole[0] / "report.json").read_text())
    for name, steps in (("alike", 4), ("longer", 5)):
        other = json.loads(json.dumps(report))
        if steps == 5:
            for one in other["protocol_ids"].values():
                one |= {"id": "another", "trainer": {**one["trainer"], "max_steps": 5}}
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(other))
    assert compare_folders([str(whole[0]), str(tmp_path / "alike")]).comparable
    with pytest.raises(InputError, match=r"(?s)not comparable.*max_steps"):
        compare_folders([str(whole[0]), str(tmp_path / "longer")])
