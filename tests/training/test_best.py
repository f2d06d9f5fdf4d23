"""The best tokenizer of a run: by a number that is known before the start, in the direction that its class says."""

import csv
import json
import math
from dataclasses import replace

import pytest
import torch
from training.runs import run_tiny, tiny_run

from imtok.errors import InputError
from imtok.measures.choose import numbers
from imtok.measures.evaluate import evaluate
from imtok.measures.named import sections
from imtok.measures.protocol import Protocol
from imtok.measures.psnr import PSNR
from imtok.measures.settings import Settings
from imtok.training import run as along
from imtok.training.best import find_best
from imtok.training.run import train

OFTEN = ("trainer.evaluate_every=2", "trainer.evaluate_images=2", "trainer.max_steps=6")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["trainer.best=PSNR"],
            r"trainer.best=PSNR is not among what is measured; did you mean psnr\?.*psnr, ssim, usage",
        ),
        (["trainer.best=perplexity", "trainer.evaluate_metrics=[psnr]"], r"perplexity is not among.*gives psnr$"),
        (
            ["trainer.best=msssim", "trainer.evaluate_metrics=[psnr,msssim]"],
            r"trainer.evaluate_metrics: msssim: its window needs images of at least 176 pixels",
        ),
        (
            ["trainer.best=bits_per_pixel"],
            r"bits_per_pixel cannot choose, since neither larger nor smaller values are better",
        ),
        (["trainer.evaluate_metrics=[psnr,lpips]"], r"trainer.evaluate_metrics: lpips: .*alexnet"),
    ],
)
def test_a_number_that_will_not_be_there_is_refused_before_there_is_a_folder(tmp_path, overrides, line, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    with pytest.raises(InputError, match=line):
        train(tiny_run(tmp_path / "run", *OFTEN, *overrides))
    assert not (tmp_path / "run").exists()


def test_the_numbers_that_are_foretold_are_those_of_an_evaluation(tmp_path):
    run = tiny_run(tmp_path, "image_size=32")
    metrics = ["psnr", "ssim", "msssim", "codes", "rfid", "kid", "pfid", "is"]
    asked = Settings(sections(metrics, pfid={"alphas": [0.5], "deltas": [2]}), Protocol("offline"), skip_missing=True)
    images = run.data.validation(32)
    batches = [next(iter(images.spread_loader(4)))]
    report = evaluate(run.tokenizer, batches, "cpu", 0, asked)
    found = numbers(asked, run.tokenizer, (32, 32))
    assert set(found) == set(report.metrics) | (
        {"inception_score_efflite0_224"} & set(report.absent)
    )  # needs more images
    assert {name for name, one in found.items() if one.higher_is_better is False} == {
        name for name in found if name.startswith(("fd_", "kid_", "pfd_"))
    }


class Worse(PSNR):
    """A measure of one's own of which less is better."""

    higher_is_better = False


@pytest.mark.parametrize(("kind", "choose_best"), [(PSNR, max), (Worse, min)])
def test_what_is_kept_is_the_best_as_the_metrics_class_says(tmp_path, kind, choose_best):
    run_tiny(tmp_path, *OFTEN, "trainer.best=psnr", f"measure.psnr._target_={kind.__module__}.{kind.__name__}")
    rows = list(csv.DictReader((tmp_path / "evaluation.csv").read_text().splitlines()))
    kept = json.loads((tmp_path / "best" / "best.json").read_text())
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert kept["value"] == choose_best(float(row["psnr"]) for row in rows)


def test_what_is_no_number_is_never_the_best(tmp_path, monkeypatch):
    """NaN is better than nothing and nothing is better than NaN."""
    evaluated, first = along.evaluate, [True]

    def spoilt(*given):
        report = evaluated(*given)
        return replace(report, metrics={**report.metrics, "psnr": math.nan}) if first.pop(0) else report

    first += [False, False]
    monkeypatch.setattr(along, "evaluate", spoilt)
    run_tiny(tmp_path, *OFTEN, "trainer.best=psnr")
    kept = json.loads((tmp_path / "best" / "best.json").read_text())
    assert kept["step"] in (4, 6)


def test_an_evaluation_that_fails_costs_no_step_and_is_made_up_for(tmp_path, monkeypatch):
    def fail(*_):
        raise InputError("the images are gone")

    with monkeypatch.context() as patched:
        patched.setattr(along, "evaluate", fail)
        with pytest.raises(InputError, match="the images are gone"):
            run_tiny(tmp_path / "run", *OFTEN)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_2"]
    assert run_tiny(tmp_path / "run", *OFTEN, "ckpt=last").step == 6
    run_tiny(tmp_path / "whole", *OFTEN)
    again, whole = ((tmp_path / name / "evaluation.csv").read_text() for name in ("run", "whole"))
    assert again == whole


def test_without_a_name_nothing_is_chosen(tmp_path):
    assert find_best(None, Settings(), tiny_run(tmp_path).tokenizer, 16) is None
