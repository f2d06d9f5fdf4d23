"""Numbers stand in one column only where they were measured alike."""

import pytest
from evaluation.tiny import Tiny, batches, tokenizer

from imtok.errors import InputError
from imtok.evaluation.command import unique_names
from imtok.evaluation.compare import compare, read_report
from imtok.evaluation.evaluate import evaluate
from imtok.evaluation.protocol import Protocol
from imtok.evaluation.report import write_report
from imtok.evaluation.settings import Settings


@pytest.fixture(autouse=True)
def _small_extractor(monkeypatch):
    monkeypatch.setattr(Protocol, "build", lambda self: Tiny())


def values(quantizer="vq", count=6, **settings):
    asked = Settings(**{"metrics": ("psnr", "rfid"), **settings})
    return evaluate(tokenizer(quantizer), batches(range(count)), settings=asked).values()


def test_tokenizers_measured_alike_share_all_columns():
    found = compare([values("vq"), values("fsq")], ["A", "B"])
    assert set(found.columns) == {"psnr", "fd_tiny"}
    assert not found.refused
    assert "| A |" in found.markdown()


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"protocol": Protocol("adm", rounding="truncate")}, "rounding is round or truncate"),
        ({"protocol": Protocol("titok")}, "crop is adm or bicubic"),
        ({"protocol": Protocol("offline")}, "preset is adm or offline"),
        ({"weights": "raw"}, "weights is ema or raw"),
        ({"count": 7}, "n is 6 or 7"),
    ],
)
def test_what_differs_is_named(other, difference):
    first, second = values(), values(**other)
    if difference.startswith(("crop", "weights", "n is")):  # PSNR knows of these too
        with pytest.raises(InputError, match=difference):
            compare([first, second], ["A", "B"])
        return
    found = compare([first, second], ["A", "B"])
    assert difference in found.refused["fd_tiny"]
    assert "fd_tiny" not in found.columns


def test_other_images_are_another_protocol():
    first, second = values(), values()
    moved = evaluate(tokenizer(), batches(range(1, 7)), settings=Settings(("psnr",))).values()
    assert compare([first, second], ["A", "B"]).columns["psnr"][0] == first["metrics"]["psnr"]
    with pytest.raises(InputError, match="data is"):
        compare([first, moved], ["A", "B"])


def test_a_metric_that_one_lacks_leaves_its_cell_empty():
    found = compare([values(metrics=("psnr",)), values()], ["A", "B"])
    assert found.columns["fd_tiny"][0] is None
    assert found.columns["psnr"][0] is not None


def test_reports_are_read_back(tmp_path):
    report = evaluate(tokenizer(), batches(range(6)))
    write_report(report, tmp_path / "a")
    assert read_report(tmp_path / "a")["metrics"] == report.metrics
    with pytest.raises(InputError, match=r"holds no report\.json"):
        read_report(tmp_path)
    (tmp_path / "old.json").write_text('{"schema": 1, "metrics": {}}')
    (tmp_path / "cut.json").write_text('{"schema": 2, "metrics": {}}')
    with pytest.raises(InputError, match=r"is damaged \(it lacks protocol_ids\); evaluate again"):
        read_report(tmp_path / "cut.json")
    with pytest.raises(InputError, match="has schema 1, and this version of imtok reads 2 and 3"):
        read_report(tmp_path / "old.json")
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(InputError, match="is not a report"):
        read_report(tmp_path / "other.json")


def test_names_are_as_short_as_they_may_be():
    assert unique_names(["runs/a", "runs/b"]) == ["a", "b"]
    assert unique_names(["x/run", "y/run"]) == ["x_run", "y_run"]
    with pytest.raises(InputError, match="must name different tokenizers"):
        unique_names(["a", "a"])
