"""Numbers stand in one column only where they were measured alike."""

import io
import json
import re

import pytest
from measures.tiny import Tiny, batches, tokenizer
from rich.console import Console

from imtok.commands.compare import compare_folders
from imtok.errors import InputError
from imtok.measures.evaluate import evaluate
from imtok.measures.protocol import Protocol
from imtok.measures.report.compare import compare, read_report
from imtok.measures.report.origin import Origin
from imtok.measures.report.side_by_side import show_comparison, unique_names
from imtok.measures.report.writing import write_report
from imtok.measures.settings import Settings


@pytest.fixture(autouse=True)
def _small_extractor(monkeypatch):
    monkeypatch.setattr(Protocol, "build", lambda self: Tiny())


def values(quantizer="vq", count=6, **settings):
    asked = Settings(**{"measures": ("psnr", "rfid"), **settings})
    return evaluate(tokenizer(quantizer), batches(range(count)), settings=asked).values()


def row(found, metric):
    (one,) = (row for row in found.rows if row.metric == metric)
    return one


def test_metrics_are_rows_and_runs_are_columns():
    found = compare([values("vq"), values("fsq")], ["A", "B"])
    assert [one.metric for one in found.rows] == ["psnr", "fd_tiny"]
    assert not found.refused
    assert "| metric | A | B |\n|---|---:|---:|\n| PSNR (dB) | " in found.markdown()


def test_the_best_is_marked_by_the_direction_of_the_metric():
    first, second = values("vq"), values("fsq")
    for report, psnr, distance in ((first, 20.0, 3.0), (second, 25.0, 4.0)):
        report["metrics"] |= {"psnr": psnr, "fd_tiny": distance, "usage": psnr}
        report["protocol_ids"]["usage"] = {"id": "same"}
    found = compare([first, second], ["A", "B"])
    assert row(found, "psnr").cells() == ["20", "25 *"]
    assert row(found, "fd_tiny").cells() == ["3 *", "4"]
    assert row(found, "usage").cells() == ["20", "25"]  # neither is better
    console = Console(record=True, width=80, file=io.StringIO())
    show_comparison(found, console)
    assert "* best of its row" in console.export_text()
    for report in (first, second):  # reports of schema 2 do not say
        del report["higher_is_better"]
    assert row(compare([first, second], ["A", "B"]), "psnr").cells() == ["20", "25"]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            {"protocol": Protocol("adm", rounding="truncate")},
            "A used adm, rounding round; B used custom, rounding truncate",
        ),
        ({"protocol": Protocol("titok")}, "B used titok, crop bicubic, dtype float64"),
        ({"protocol": Protocol("offline")}, "B used offline"),
        ({"weights": "raw"}, "A with averaged weights; B with raw weights"),
        ({"count": 7}, "A over 6 images; B over 7 images"),
    ],
)
def test_what_differs_is_said_in_words(other, words):
    first, second = values(), values(**other)
    for report in (first, second):
        report["protocol_ids"]["fd_tiny"]["extractor"] = "inception_tf"
    if words.startswith("A over") or "weights" in words:  # PSNR knows of these too
        lines = compare([first, second], ["A", "B"]).refused
        assert any(line.startswith("PSNR (dB)") and words in line for line in lines)
    else:
        assert any("fd_tiny" in line and words in line for line in compare([first, second], ["A", "B"]).refused), words
    for line in compare([first, second], ["A", "B"]).refused:
        assert not re.search(r"[0-9a-f]{10}", line)


def test_rows_that_were_measured_alike_stay_though_others_were_not():
    found = compare([values(), values(protocol=Protocol("adm", rounding="truncate"))], ["A", "B"])
    assert [one.metric for one in found.rows] == ["psnr"]
    (line,) = found.refused
    assert line.startswith("fd_tiny: not comparable: A used adm")
    assert f"- {line}" in found.markdown()
    three = compare([values(), values("fsq"), values(weights="raw")], ["A", "B", "C"])
    assert [one is None for one in row(three, "psnr").values] == [False, False, True]
    assert three.refused == ["PSNR (dB), fd_tiny: not comparable: A and B with averaged weights; C with raw weights"]


def test_the_best_of_codes_is_marked_as_for_the_best_of_a_run():
    first, second = values(measures=("codes",)), values(measures=("codes",))
    second["metrics"] = {name: value * 2 for name, value in second["metrics"].items()}
    cells = {row.metric: row.cells() for row in compare([first, second], ["A", "B"]).rows}
    assert {name for name, (_, other) in cells.items() if other.endswith(" *")} == {
        *("usage", "perplexity", "relative_perplexity", "frequent", "entropy_bits", "entropy_bits_corrected")
    }


def test_other_images_are_named_by_path_split_and_number():
    first, second = values(), values(count=7)
    for report, path in ((first, "photos"), (second, "others")):
        report["data"] |= Origin({"_target_": "imtok.data.sources.folder.Folder", "path": path}, "val").about_data()
    (line,) = compare([first, second], ["A", "B"]).refused
    assert line == (
        "PSNR (dB), fd_tiny: not comparable: A over 6 images, on folder, path photos, split val; "
        "B over 7 images, on folder, path others, split val"
    )
    former = values()
    del former["data"]  # as in reports of schema 2
    (line,) = compare([former, first, second], ["A", "B", "C"]).refused
    assert "A and B over 6 images, on folder, path photos, split val; C over 7 images, on folder, path others" in line
    moved = evaluate(tokenizer(), batches(range(1, 7)), settings=Settings(("psnr",))).values()
    found = compare([values(measures=("psnr",)), moved], ["A", "B"])
    assert found.refused == [
        "PSNR (dB): not comparable: the images of A and B differ, although they have the same description"
    ]
    assert not found.comparable


def test_where_nothing_is_comparable_the_command_is_refused_with_the_reasons(tmp_path):
    for name, count in (("a", 6), ("b", 7)):
        write_report(evaluate(tokenizer(), batches(range(count)), settings=Settings(("psnr",))), tmp_path / name)
    with pytest.raises(
        InputError, match=r"^no number of these reports is comparable:\n  PSNR .* a over 6 images; b over 7"
    ):
        compare_folders([str(tmp_path / "a"), str(tmp_path / "b")])
    assert compare_folders([str(tmp_path / "a"), str(tmp_path / "a/report.json")]).comparable


def test_a_metric_that_one_lacks_leaves_its_cell_empty():
    found = compare([values(measures=("psnr",)), values()], ["A", "B"])
    assert row(found, "fd_tiny").values[0] is None
    assert row(found, "psnr").values[0] is not None


def test_names_of_runs_are_text():
    found = compare([values("vq"), values("fsq")], ["<b>[red]A|`", "B"])
    assert "| metric | &lt;b&gt;\\[red\\]A\\|\\` | B |" in found.markdown()
    console = Console(record=True, width=80, file=io.StringIO())
    show_comparison(found, console)
    assert "<b>[red]A|`" in console.export_text()


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("metrics", {"psnr": None}),
        ("metrics", {"psnr": "24"}),
        ("metrics", {"psnr": float("nan")}),
        ("metrics", None),
        ("protocol_ids", {"psnr": None}),
        ("image_size", 64),
        ("image_size", [64, None]),
        ("images", "many"),
        ("parameters", None),
        ("bits_per_token", None),
        ("vocab_sizes", 512),
        ("data", "photos"),
        ("higher_is_better", None),
        ("protocol", []),
        ("tokenizer", None),
        ("when", 2026),
        ("speed", 31.5),
        ("speed", {"images_per_second": "fast"}),
    ],
)
def test_a_damaged_report_is_refused_in_one_line_that_names_what(tmp_path, name, value):
    (tmp_path / "report.json").write_text(json.dumps(values() | {name: value}))
    with pytest.raises(
        InputError, match=rf"^[^\n]*report\.json is damaged \(its {name} cannot be read\); evaluate again$"
    ):
        read_report(tmp_path)


def test_names_are_as_short_as_they_may_be():
    assert unique_names(["runs/a", "runs/b"]) == ["a", "b"]
    assert unique_names(["x/run", "y/run"]) == ["x_run", "y_run"]
    with pytest.raises(InputError, match="one and the same is named twice among"):
        unique_names(["a", "a"])
