"""Several tokenizers on one page: numbers that were measured alike, and the same images in one row."""

import io
import re
from dataclasses import replace

import pytest
from measures.reader import read
from measures.tiny import batches, tokenizer
from rich.console import Console

from imtok.commands.compare import run_compare
from imtok.errors import InputError
from imtok.measures.evaluate import evaluate
from imtok.measures.report.compare import compare
from imtok.measures.report.comparison_page import Side, align, comparison_page
from imtok.measures.report.side_by_side import side_by_side
from imtok.measures.report.writing import write_report
from imtok.measures.settings import Settings

EVIL = '<b>"evil"</b>{{ 7 * 7 }}\u202e'
SHOWN = "\\u202e".join(EVIL.split("\u202e"))


def measured(quantizer="vq", rows=range(6), name="", **settings):
    return replace(evaluate(tokenizer(quantizer), batches(rows), settings=Settings(**settings)), name=name or quantizer)


@pytest.fixture(scope="module")
def reports():
    return [measured("vq"), measured("fsq"), measured("product")]


def side(report, name=""):
    return Side(name or report.name, report.values(), report.pictures)


def page_of(sides):
    return comparison_page(compare([one.values for one in sides], [one.name for one in sides]), sides)


def test_each_row_has_the_same_image_by_every_tokenizer(reports):
    sides = [side(report) for report in reports]
    found = read(page_of(sides))
    found.check()
    for key in reports[0].pictures.keys:
        start = found.alts.index(f"original of {key}")
        assert found.alts[start + 1 : start + 4] == [f"{key} by {name}" for name in ("vq", "fsq", "product")]
    assert len(found.alts) == 6 * 4
    sets, remark = align(sides)
    assert remark == ""
    assert [picture.caption for picture in sets[0].pictures] == ["original", "vq", "fsq", "product"]
    assert len({picture.data for picture in sets[0].pictures}) == 4
    assert sets[0].numbers.startswith("vq: PSNR ")
    assert "; fsq: PSNR " in sets[0].numbers


def test_numbers_of_two_protocols_share_no_row(reports):
    raw = measured("fsq", weights="raw")
    found = read(page_of([side(reports[0], "A"), side(reports[1], "B"), side(raw, "C")]))
    (row,) = [row for row in found.rows if row[0] == "PSNR (dB)"]
    assert row[3] == ""
    assert all(row[1:3])
    assert any("A and B with averaged weights; C with raw weights" in note for note in found.notes)
    assert "* best of its row" in found.text


def test_images_are_the_same_by_their_pixels_and_not_by_their_names(reports):
    moved = measured("fsq", rows=range(2, 8))
    sets, remark = align([side(reports[0]), side(moved)])
    assert [one.name for one in sets] == [f"image {number}" for number in range(2, 6)]
    assert remark == "4 of 6 images are shown by all; the others are left out."
    lied = replace(moved, pictures=replace(moved.pictures, keys=list(reports[0].pictures.keys)))
    assert [one.name for one in align([side(reports[0]), side(lied)])[0]] == [
        f"image {number}" for number in range(2, 6)
    ]


def test_pictures_that_cannot_stand_side_by_side_are_said_in_one_sentence(reports):
    others = measured("fsq", rows=range(20, 26))
    assert align([side(reports[0]), side(others)]) == (
        [],
        "There are no pictures side by side, since no image is the same in all: vq of 32x32 pixels, fsq of 32x32 "
        "pixels.",
    )
    without = Side("old", reports[1].values(), None)
    sets, remark = align([side(reports[0]), without])
    assert not sets
    assert remark == "There are no pictures side by side, since old kept none; evaluate again."
    found = read(page_of([side(reports[0]), without]))
    found.check()
    assert remark in found.text
    assert not found.alts


def test_names_of_reports_are_text(reports):
    text = page_of([side(reports[0], EVIL), side(reports[1])])
    found = read(text)
    assert found.title == f"Comparison of {SHOWN}, fsq"
    assert "<b>" not in text
    assert "\u202e" not in text


def test_a_long_name_takes_several_lines_of_its_column_and_not_the_whole_screen(reports):
    found = read(page_of([side(reports[0], "long_" * 40), side(reports[1])]))
    (rule,) = re.findall(r"\n[^\n]*thead th\.n \{([^}]*)\}", found.style)
    assert {"max-width: 14rem", "white-space: normal", "overflow-wrap: break-word"} <= set(rule.strip(" ;").split("; "))


def test_stored_reports_are_compared_on_a_page_whose_path_is_said(tmp_path, reports):
    for report in reports[:2]:
        write_report(report, tmp_path / report.name)
    console = Console(record=True, width=400, file=io.StringIO())
    paths = [str(tmp_path / "vq"), str(tmp_path / "fsq/report.json")]
    run_compare(paths, tmp_path / "usual/place", console)
    assert f"{tmp_path}/usual/place/comparison.html" in console.export_text()
    stored = (tmp_path / "usual/place/comparison.html").read_text()
    assert {path.name for path in (tmp_path / "usual/place").iterdir()} == {"comparison.html", "comparison.md"}
    assert len(read(stored).alts) == 6 * 3
    run_compare([*paths, f"out={tmp_path / 'mine'}"], tmp_path / "usual", console)
    run_compare([*paths, f"out={tmp_path / 'mine'}"], tmp_path / "usual", console)  # takes the place of its own
    assert (tmp_path / "mine/comparison.html").read_text() == stored
    with pytest.raises(InputError, match="already holds something else"):
        run_compare([*paths, f"out={tmp_path / 'vq'}"], tmp_path / "usual", console)


def test_reports_made_together_have_the_page_beside_them(tmp_path, reports):
    side_by_side(reports, tmp_path, Console(file=io.StringIO()))
    found = read((tmp_path / "comparison.html").read_text())
    found.check()
    assert ["Tokens", "16 x 5 bits", "16 x 5.322 bits", "16 x 10.32 bits"] in found.rows
    assert ["Bits per image", "80", "85.15", "165.2"] in found.rows
    (speeds,) = (row[1:] for row in found.rows if row[0] == "Speed")
    assert all(re.fullmatch(r"[\d.e+]+ images/s encoded and decoded \(cpu with \d+ threads?\)", one) for one in speeds)
    assert found.title == "Comparison of vq, fsq, product"


def test_reports_of_earlier_versions_are_compared_as_far_as_they_go(tmp_path, reports):
    old = reports[0].values()
    for name in ("parameters", "speed", "data", "when", "higher_is_better", "tokenizer"):
        del old[name]
    found = read(page_of([Side("old", old, None), Side("older", old, None)]))
    found.check()
    assert ["Data", "6 images of 32x32 pixels", "6 images of 32x32 pixels"] in found.rows
