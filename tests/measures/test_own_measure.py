"""A measure in a package of one's own: new files only, and its class alone says which way is better."""

import csv
import json
import sys
from pathlib import Path

import pytest
import torch
from measures.tiny import Tiny, batches, tokenizer
from training.runs import run_tiny, tiny_run

from imtok.config import check_command
from imtok.errors import InputError
from imtok.measures.evaluate import evaluate
from imtok.measures.named import known, names, sections
from imtok.measures.protocol import Protocol
from imtok.measures.report.compare import compare
from imtok.measures.settings import Settings
from imtok.training.resume import changes
from imtok.training.run import train

CODE = """
import torch
from torchmetrics import Metric
from imtok.measures.base import MeasureResult, Measure, Number
from imtok.measures.mean import ImageMean

class GradientError(ImageMean):
    name, title, unit, higher_is_better = "gradient_error", "Gradient error", "levels", False
    meaning, convention = "How far gradients are off.", "mean of absolute differences"

    def per_image(self, image, target):
        return (image.double().diff(dim=-1) - target.double().diff(dim=-1)).abs().mean((1, 2, 3))

class Tokens(Measure):
    name, title, convention = "odd_tokens", "Odd tokens", "share of odd ids"

    def __init__(self, slot: int = 0) -> None:
        self.slot, self.odd, self.count = slot, 0, 0

    def update(self, seen):
        ids = seen.reconstruction.quantized.ids[..., self.slot]
        self.odd, self.count = self.odd + int((ids % 2).sum()), self.count + ids.numel()

    def finish(self):
        return MeasureResult({self.name: Number(self.odd / self.count)})

class More(Tokens):
    def finish(self):
        return MeasureResult({self.name: Number(0.5), "nobody_said": Number(2.0)})

class Averaged(Metric):
    def __init__(self):
        super().__init__()
        self.add_state("value", torch.zeros(()), dist_reduce_fx="mean")

    def update(self, preds, target):
        self.value = (preds - target).abs().mean()

    def compute(self):
        return self.value
"""
OFTEN = ("trainer.evaluate_every=2", "trainer.evaluate_images=2", "trainer.max_steps=6")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A module, and a folder of YAML files."""
    (tmp_path / "own_measures.py").write_text(CODE)
    (tmp_path / "conf" / "measure").mkdir(parents=True)
    (tmp_path / "conf" / "measure" / "mine.yaml").write_text("mine:\n  _target_: own_measures.GradientError\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    sys.modules.pop("own_measures", None)


@pytest.mark.usefixtures("package")
def test_of_a_measure_of_which_less_is_better_a_run_keeps_the_lowest(tmp_path):
    out = tmp_path / "run"
    own = ("~measure.ssim", "~measure.codes", "+measure.mine={_target_:own_measures.GradientError}")
    run_tiny(out, *OFTEN, *own, "trainer.best=gradient_error")
    rows = list(csv.DictReader((out / "evaluation.csv").read_text().splitlines()))
    kept = json.loads((out / "best" / "best.json").read_text())
    assert list(rows[0]) == ["step", "images", "psnr", "gradient_error"]
    assert kept["value"] == min(float(row["gradient_error"]) for row in rows)


def test_a_file_of_ones_own_is_chosen_by_name(package):
    check_command("eval", [package, "tokenizer=run", "metrics=[psnr,mine]"])
    check_command("train", [package, "trainer.evaluate_metrics=[psnr,mine]", "trainer.evaluate_every=5"])
    with pytest.raises(InputError, match="metrics: there is no mime"):
        check_command("eval", [package, "tokenizer=run", "metrics=[psnr,mime]"])
    with pytest.raises(InputError, match="Tokens has no argument window"):
        check_command("eval", ["tokenizer=run", "+measure.t={_target_:own_measures.Tokens,window:3}"])
    with pytest.raises(InputError, match=r"measure.x._target_ must name a subclass of imtok.measures.base.Measure or"):
        check_command("eval", ["tokenizer=run", "+measure.x={_target_:pathlib.Path}"])


@pytest.mark.usefixtures("package")
def test_a_report_says_what_a_strangers_number_is_and_its_id_what_it_depends_on(monkeypatch):
    def report(slot):
        own = {
            "mine": {"_target_": "own_measures.GradientError"},
            "t": {"_target_": "own_measures.Tokens", "slot": slot},
        }
        return evaluate(
            tokenizer("product"), batches(range(4)), settings=Settings({**sections(["psnr"]), **own})
        ).values()

    first, second = report(0), report(1)
    assert first["terms"]["gradient_error"] == {
        "title": "Gradient error",
        "unit": "levels",
        "meaning": "How far gradients are off.",
    }
    about = first["protocol_ids"]["odd_tokens"]
    assert (about["class"], about["arguments"]) == ("own_measures.Tokens", {"slot": 0})
    assert about["version"].startswith("sha256 ")
    assert "class" not in first["protocol_ids"]["psnr"]
    monkeypatch.delitem(sys.modules, "own_measures")  # whoever compares may not have the class
    found = compare([first, second], ["A", "B"])
    assert "| Gradient error (levels) |" in found.markdown()
    assert any(line.startswith("Odd tokens: not comparable") for line in found.refused)
    former = {key: value for key, value in first.items() if key != "terms"}
    assert "| PSNR (dB) |" in compare([former, former], ["A", "B"]).markdown()


@pytest.mark.usefixtures("package")
def test_a_direction_that_a_class_leaves_open_is_asked_for(tmp_path):
    own = ("+measure.t={_target_:own_measures.Tokens}", "trainer.best=odd_tokens", *OFTEN)
    with pytest.raises(InputError, match=r"give \+measure\.t\.higher_is_better=true or false$"):
        train(tiny_run(tmp_path / "run", *own))
    run_tiny(tmp_path / "run", *own, "+measure.t.higher_is_better=false")
    rows = list(csv.DictReader((tmp_path / "run/evaluation.csv").read_text().splitlines()))
    kept = json.loads((tmp_path / "run/best/best.json").read_text())
    assert kept["value"] == min(float(row["odd_tokens"]) for row in rows)
    with pytest.raises(InputError, match=r"measure.psnr.higher_is_better: PSNRMeasure says that itself"):
        train(tiny_run(tmp_path / "other", *OFTEN, "+measure.psnr.higher_is_better=false"))


TORCHMETRICS = {
    "uqi": {"_target_": "torchmetrics.image.UniversalImageQualityIndex"},
    "their_psnr": {"_target_": "torchmetrics.image.PeakSignalNoiseRatio"},
    "their_ssim": {"_target_": "torchmetrics.image.StructuralSimilarityIndexMeasure"},
    "scc": {"_target_": "torchmetrics.image.SpatialCorrelationCoefficient"},
    "rmse": {"_target_": "torchmetrics.image.RootMeanSquaredErrorUsingSlidingWindow"},
}


def test_image_metrics_of_torchmetrics_work_by_their_class_and_do_not_depend_on_the_batch():
    one, five = (evaluate(tokenizer(), batches(range(7), size), settings=Settings(TORCHMETRICS)) for size in (1, 5))
    assert set(one.metrics) == set(TORCHMETRICS)
    assert one.metrics == five.metrics
    assert one.higher_is_better == {
        "uqi": True, "their_psnr": True, "their_ssim": True, "scc": True, "rmse": False,
    }  # fmt: skip
    pixels = [(batch.image, batch) for batch in batches(range(7), 7)]
    made = tokenizer()(pixels[0][0].float() / 127.5 - 1).image
    error = (((made.clamp(-1, 1) + 1) * 127.5).round() - pixels[0][0]).square().mean() / 255**2
    assert one.metrics["their_psnr"] == pytest.approx(-10 * torch.log10(error).item(), abs=1e-3)
    assert one.ids["uqi"]["version"].startswith("torchmetrics ")


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"_target_": "torchmetrics.image.TotalVariation"}, r"TotalVariation.update takes \(img\)"),
        ({"_target_": "torchmetrics.image.PeakSignalNoiseRatioWithBlockedEffect"}, "refuses images of 32x32"),
        ({"_target_": "torchmetrics.image.PeakSignalNoiseRatio", "reduction": "none", "dim": 1}, "no single number"),
        ({"_target_": "pathlib.Path"}, "must name a subclass of"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line_before_anything_is_computed(section, line):
    made = tokenizer()
    made.forward = lambda *_, **__: pytest.fail("computed")
    with pytest.raises(InputError, match=line) as caught:
        evaluate(made, batches(range(4)), settings=Settings({"x": section}))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.usefixtures("package")
def test_a_state_that_is_averaged_over_processes_is_refused_where_there_are_several():
    settings = Settings({"x": {"_target_": "own_measures.Averaged"}}, processes=2)
    with pytest.raises(InputError, match=r"measure.x: Averaged puts value of several processes together by mean"):
        evaluate(tokenizer(), batches(range(4)), settings=settings)


def test_shares_put_together_give_the_number_of_the_whole(monkeypatch):
    """What two processes gather, one of which has no image in a second try."""
    from imtok.measures import library

    whole = evaluate(tokenizer(), batches(range(7)), settings=Settings(TORCHMETRICS)).metrics
    for other in ([1, 3], []):
        kept = {}

        def keep(value, kept=kept):
            kept[len(kept)] = value
            return [value]

        monkeypatch.setattr(library, "gather_values", keep)
        if other:
            evaluate(tokenizer(), batches(other), settings=Settings(TORCHMETRICS))
        empty = {} if other else dict.fromkeys(range(len(TORCHMETRICS)))
        theirs, calls = dict(kept) or empty, iter(range(len(TORCHMETRICS)))

        def both(value, theirs=theirs, calls=calls):
            part = theirs[next(calls)]
            return [part, value] if part is not None else [([], _blank(value[1])), value]

        monkeypatch.setattr(library, "gather_values", both)
        rest = [row for row in range(7) if row not in other]
        found = evaluate(tokenizer(), batches(rest), settings=Settings(TORCHMETRICS)).metrics
        assert found == pytest.approx(whole, rel=1e-5)


def _blank(states):
    """The states of a process without an image."""
    return {name: [] if isinstance(one, list) else torch.zeros_like(one) for name, one in states.items()}


def test_a_number_that_a_class_announced_for_any_net_has_its_words():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Protocol, "build", lambda self: Tiny())
        report = evaluate(tokenizer(), batches(range(24)), settings=Settings(("is",)))
    assert "standard deviation" in report.values()["terms"]["inception_score_std_tiny"]["meaning"]
    assert report.higher_is_better == {"inception_score_tiny": True, "inception_score_std_tiny": None}


@pytest.mark.usefixtures("package")
def test_a_number_that_a_class_did_not_announce_is_in_the_report_all_the_same():
    report = evaluate(tokenizer(), batches(range(4)), settings=Settings({"m": {"_target_": "own_measures.More"}}))
    assert report.metrics == {"odd_tokens": 0.5, "nobody_said": 2.0}
    assert report.higher_is_better["nobody_said"] is None
    assert report.values()["terms"]["nobody_said"]["title"] == "nobody_said"


def test_two_measures_of_one_number_are_refused():
    twice = {**sections(["psnr"]), "again": sections(["psnr"])["psnr"]}
    with pytest.raises(InputError, match=r"measure.psnr and measure.again both give psnr"):
        evaluate(tokenizer(), batches(range(4)), settings=Settings(twice))


def test_a_run_of_before_that_named_its_metrics_in_a_list_goes_on():
    old = {"trainer": {"max_steps": 4, "evaluate_metrics": ["psnr", "ssim", "probe"]}}
    new = {"trainer": {"max_steps": 4}, "measure": sections(["psnr", "ssim", "linear_probe"])}
    assert changes(old, new) == {}
    assert set(changes(old, {**new, "measure": sections(["psnr"])})) == {
        "measure.ssim._target_",
        "measure.linear_probe._target_",
    }


@pytest.mark.parametrize("name", names())
def test_every_file_names_a_class_that_says_what_its_numbers_are(name):
    path = Path(__file__).parents[2] / "configs" / "measure" / f"{name}.yaml"
    assert path.read_text(encoding="utf-8").startswith("# ")
    assert list(sections([name])) == [name]
    for quantity in known().values():
        assert quantity.convention, quantity
        assert quantity.meaning, quantity
        assert quantity.title or "{net}" in quantity.name


@pytest.mark.parametrize("name", ["psnr", "ssim", "codes", "linear_probe", "positions", "rate", "language", "looks"])
def test_a_measure_gives_the_numbers_that_it_foretells_whatever_the_batch(name):
    one, five = (evaluate(tokenizer(), batches(range(40), size), settings=Settings([name])) for size in (8, 20))
    assert one.metrics == five.metrics
    assert set(one.terms) == set(one.metrics)
    assert {key: one["title"] for key, one in one.terms.items()}.keys() == one.higher_is_better.keys()
