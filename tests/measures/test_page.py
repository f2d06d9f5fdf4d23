"""The page needs nothing but itself, and holds every plot, every picture and every number."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from measures.reader import Reader, read
from measures.tiny import SIDE, Tiny, batches, tokenizer

from imtok.errors import InputError
from imtok.measures.evaluate import evaluate
from imtok.measures.named import names, sections
from imtok.measures.protocol import Protocol
from imtok.measures.report.arrays import read_pictures
from imtok.measures.report.briefs import briefs
from imtok.measures.report.page import page
from imtok.measures.report.plots import draw_plots
from imtok.measures.report.terms import term
from imtok.measures.report.titles import number
from imtok.measures.report.writing import write_report
from imtok.measures.settings import Settings
from imtok.tokenizer import Tokenizer

EVIL = '<b onmouseover="alert(1)">"evil"</b>&amp;{{ 7 * 7 }}</script><img src=http://evil/x.png>'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Protocol, "build", lambda self: Tiny())
        asked = Settings(sections(names(), pfid={"alphas": [0.5, 1.0], "deltas": [4, 8]}), skip_missing=True)
        given = batches(range(24), 8)
        given[0].key[0] = EVIL
        report = replace(evaluate(tokenizer(), given, pictures=5, settings=asked), name=EVIL, warnings=[EVIL])
    path = tmp_path_factory.mktemp("page") / "report"
    write_report(report, path)
    return report, path


def test_an_image_of_one_token_has_one_position(tmp_path):
    config = tokenizer().config
    parts = {part: {**config[part], "patch_size": SIDE} for part in ("encoder", "decoder")}
    one = Tokenizer.from_config({**config, **parts}).eval()
    report = evaluate(one, batches(range(6)), settings=Settings(("positions", "looks")))
    assert report.tables["positions"]["tokens"] == [[6.0]]
    write_report(report, tmp_path / "report")


def test_the_page_is_whole_and_fetches_nothing(folder):
    report, path = folder
    text = (path / "report.html").read_text()
    found = read(text)
    found.check()
    plots = draw_plots(report)
    assert {"PSNR (dB) against bytes", "fd_tiny against bytes", "Perturbed tokens", "Entropy at each position",
            "Code frequencies", "Growth of the vocabulary"} <= set(plots)  # fmt: skip
    for name in (*(f"Plot: {name}" for name in plots), *report.drawings):
        assert found.alts.count(name) == 1, name
        assert name.removeprefix("Plot: ") in found.text
    assert len(report.drawings) == 2
    for key in report.pictures.keys:
        for kind in ("original", "reconstruction", "error"):
            assert found.alts.count(f"{kind} of {key}") == 1
    for name, value in report.metrics.items():
        assert [term(name).title, number(value)] in [row[:2] for row in found.rows]
        assert report.ids[name]["id"] in found.text
        assert report.conventions[name] in found.text
    for reason in report.absent.values():
        assert reason in found.text
    for brief in briefs(report):
        assert all(row in found.rows for row in brief.rows), brief.title


def test_no_name_is_anything_but_text(folder):
    text = (folder[1] / "report.html").read_text()
    found = read(text)
    assert found.title == EVIL
    assert found.headings[0] == (1, EVIL)
    assert f"{EVIL}." in found.notes
    assert f"original of {EVIL}" in found.alts
    assert "<b " not in text
    assert found.tags["script"] == 1  # the page's own


def test_what_stands_on_top_is_a_verdict_and_then_pictures_and_no_hash(folder):
    report, path = folder
    text = (path / "report.html").read_text()
    names = [name for level, name in read(text).headings if level == 2]
    assert names[:3] == ["Verdict", "Pictures", "Numbers"]
    before, _, after = text.partition("<details>")
    shown = re.sub(r"base64,[^\"]*|sha256-[^']*", "", before)
    assert report.protocol["data"] not in shown
    assert not re.search(r"\b[0-9a-f]{12,}\b", shown)
    assert all(report.ids[name]["id"] in after for name in report.metrics)


def test_definitions_protocols_and_origin_are_folded_and_there(folder):
    report, path = folder
    found = read((path / "report.html").read_text())
    assert len(found.details) == 3
    meanings, protocol, origin = found.details
    for name in report.metrics:
        assert term(name).meaning
        assert term(name).meaning in meanings
    assert all(convention in protocol for convention in report.conventions.values())
    assert report.tokenizer in origin


def test_every_image_has_its_own_numbers(folder):
    report, path = folder
    text = (path / "report.html").read_text()
    wanted = report.pictures.originals[1].double() - report.pictures.reconstructions[1].double()
    psnr = 10 * np.log10(255**2 / wanted.square().mean().item())
    assert f"PSNR {psnr:.2f} dB, SSIM " in text
    exact = replace(report, pictures=replace(report.pictures, reconstructions=report.pictures.originals))
    assert page(exact).count('<p class="numbers">exact</p>') == 5


def test_the_page_is_there_without_its_script(folder):
    text = (folder[1] / "report.html").read_text()
    without = re.sub(r"<script>.*</script>", "", text, flags=re.DOTALL)
    found = Reader()
    found.feed(without)
    assert len(found.alts) == len(read(text).alts)
    assert 'class="hint" hidden' in without  # which names what only the script does


def test_colours_of_text_contrast_in_both_modes():
    style = page(evaluate(tokenizer(), batches(range(2)))).partition("<style>")[2].partition("</style>")[0]
    palettes = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    assert len(palettes) == 2
    for palette in palettes:
        colours = {name: luminance(value) for name, value in re.findall(r"--(\w+): (#[0-9a-f]{6});", palette)}
        assert len(colours) == 7
        for ink in ("ink", "faint", "accent", "note"):
            for ground in ("paper", "card"):
                light, dark = sorted((colours[ink], colours[ground]), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)


def luminance(colour):
    """Of WCAG 2, from 0 to 1."""
    levels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in levels]
    return sum(weight * level for weight, level in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_report_without_pictures_codes_and_name_has_a_page():
    report = evaluate(tokenizer(), batches(range(3)), pictures=0, settings=Settings(("ssim",)))
    found = read(page(report))
    found.check()
    assert found.title == "Evaluation"
    assert [name for level, name in found.headings if level == 2] == ["Verdict", "Numbers"]


def test_a_plot_of_lengths_says_nothing_in_the_log(folder, caplog):
    table = {"lengths": [1, 2, 16], "images": [3, 0, 5], "missed": 2, "target_psnr": 25.0}
    with caplog.at_level("INFO", logger="matplotlib"):
        assert list(draw_plots(replace(folder[0], tables={"length": table}, arrays={}))) == ["Tokens that images need"]
    assert not caplog.records


def test_the_files_for_machines_hold_the_same(folder):
    report, path = folder
    assert {file.name for file in path.iterdir()} == {
        "report.html", "report.md", "report.json", "grid.png", "codes.npz", "pictures.npz", "rd.csv"
    }  # fmt: skip
    codes = np.load(path / "codes.npz", allow_pickle=False)
    assert codes["counts_0"].sum() == 24 * 16
    assert codes["ids"].shape == (24, 16, 1)
    assert (np.bincount(codes["ids"].ravel(), minlength=32) == codes["counts_0"]).all()
    rows = list(csv.DictReader((path / "rd.csv").read_text().splitlines()))
    assert {row["kind"] for row in rows} >= {"tokens", "jpeg", "webp"}
    (own,) = (row for row in rows if row["kind"] == "tokens")
    assert float(own["psnr"]) == report.metrics["psnr"]
    assert float(own["bytes"]) == 16 * 5 / 8
    stored = json.loads((path / "report.json").read_text())
    assert stored["schema"] == 3
    assert stored["protocol_ids"].keys() == stored["metrics"].keys()
    assert stored["parameters"] == sum(parameter.numel() for parameter in tokenizer().parameters())
    assert stored["speed"].keys() == {"images_per_second", "images", "device"}
    facts = stored["protocol_ids"]["fd_tiny"]
    assert facts["n"] == 24
    assert facts["preset"] == "adm"
    assert facts["weights"] == "ema"
    assert facts["extractor_hash"] == "0" * 16
    assert facts["reference"] == "originals of the same pass"
    assert len(facts["data"]) == 16


def test_the_pictures_are_read_back_bit_for_bit(folder, tmp_path):
    report, path = folder
    read_back = read_pictures(path)
    assert read_back.keys == report.pictures.keys
    for name in ("originals", "reconstructions"):
        assert torch.equal(torch.stack(getattr(read_back, name)), torch.stack(getattr(report.pictures, name)))
    assert read_pictures(tmp_path) is None


@pytest.mark.parametrize("spoil", ["cut", "text", "shape", "sides", "missing", "objects"])
def test_damaged_pictures_are_refused_by_name(tmp_path, folder, spoil):
    path, whole = tmp_path / "pictures.npz", (folder[1] / "pictures.npz").read_bytes()
    arrays = dict(np.load(folder[1] / "pictures.npz"))
    if spoil in ("cut", "text"):
        path.write_bytes(whole[: len(whole) // 2] if spoil == "cut" else b"no archive")
    elif spoil == "sides":
        np.savez(path, **(arrays | {"originals": arrays["originals"][..., 1:]}))
    else:
        arrays["originals"] = arrays["originals"][:2] if spoil == "shape" else np.array([None, {}], dtype=object)
        if spoil == "missing":
            del arrays["originals"]
        np.savez(path, **arrays)
    with pytest.raises(InputError, match=r"^[^\n]*pictures\.npz is damaged \([^\n]*\); evaluate again$"):
        read_pictures(tmp_path)
