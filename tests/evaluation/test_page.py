"""The page needs nothing but itself, and holds every plot, every picture and every number."""

import csv
import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from evaluation.tiny import SIDE, Tiny, batches, tokenizer

from imtok.evaluation.evaluate import evaluate
from imtok.evaluation.page import write_page
from imtok.evaluation.plots import draw_plots
from imtok.evaluation.protocol import Protocol
from imtok.evaluation.report import write_report
from imtok.evaluation.settings import METRICS, Settings
from imtok.evaluation.titles import number, title
from imtok.tokenizer import Tokenizer


class Links(HTMLParser):
    """Collects what a page shows and what it would fetch."""

    def __init__(self):
        super().__init__()
        self.sources, self.pictures, self.open, self.text = [], [], [], ""

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.sources += [attributes[name] for name in ("src", "href", "srcset", "data") if name in attributes]
        if tag == "img":
            self.pictures.append(attributes["alt"])
        elif tag not in ("meta", "br"):
            self.open.append(tag)
        assert tag not in ("script", "link", "iframe", "object", "base")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setattr(Protocol, "build", lambda self: Tiny())
    asked = Settings(tuple(METRICS), pfid_alphas=(0.5, 1.0), pfid_deltas=(4, 8), skip_missing=True)
    given = batches(range(24), 8)
    given[0].key[0] = '<b>"evil"</b>&.png'
    report = evaluate(tokenizer(), given, pictures=5, settings=asked)
    write_report(report, tmp_path / "report", lambda aside: write_page(report, aside))
    return report, tmp_path / "report"


def test_an_image_of_one_token_has_one_position(tmp_path):
    config = tokenizer().config
    parts = {part: {**config[part], "patch_size": SIDE} for part in ("encoder", "decoder")}
    one = Tokenizer.from_config({**config, **parts}).eval()
    report = evaluate(one, batches(range(6)), settings=Settings(("positions", "looks")))
    assert report.tables["positions"]["tokens"] == [[6.0]]
    write_report(report, tmp_path / "report", lambda aside: write_page(report, aside))


def test_the_page_is_whole_and_fetches_nothing(folder):
    report, path = folder
    text = (path / "report.html").read_text()
    page = Links()
    page.feed(text)
    assert not page.open
    assert page.sources
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in page.sources)
    assert "url(" not in text
    assert "@import" not in text
    plots = draw_plots(report)
    assert {"PSNR (dB) against bytes", "fd_tiny against bytes", "Perturbed tokens", "Entropy at each position",
            "Code frequencies", "Growth of the vocabulary"} <= set(plots)  # fmt: skip
    for name in (*plots, *report.drawings):
        assert page.pictures.count(name) == 1, name
        assert name in page.text
    assert len(report.drawings) == 2
    for key in report.pictures.keys:  # original, reconstruction and error of each
        assert page.pictures.count(key) == 3, key
    assert '<b>"evil"' not in text
    for name, value in report.metrics.items():
        assert title(name) in page.text
        assert number(value) in page.text
        assert report.ids[name]["id"] in page.text
    for reason in report.absent.values():
        assert reason in page.text


def test_a_plot_of_lengths_says_nothing_in_the_log(folder, caplog):
    table = {"lengths": [1, 2, 16], "images": [3, 0, 5], "missed": 2, "target_psnr": 25.0}
    with caplog.at_level("INFO", logger="matplotlib"):
        assert list(draw_plots(replace(folder[0], tables={"length": table}, arrays={}))) == ["Tokens that images need"]
    assert not caplog.records


def test_the_files_for_machines_hold_the_same(folder):
    report, path = folder
    assert {file.name for file in path.iterdir()} == {
        "report.html", "report.md", "report.json", "grid.png", "codes.npz", "rd.csv"
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
    facts = stored["protocol_ids"]["fd_tiny"]
    assert facts["n"] == 24
    assert facts["preset"] == "adm"
    assert facts["weights"] == "ema"
    assert facts["extractor_hash"] == "0" * 16
    assert facts["reference"] == "originals of the same pass"
    assert len(facts["data"]) == 16
