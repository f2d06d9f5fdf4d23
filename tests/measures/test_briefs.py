"""What took long to measure is shown in short tables: the same numbers on the terminal, in Markdown and in HTML."""

import io
from html.parser import HTMLParser

import pytest
from measures.batches import batch_of
from measures.by_rows import pictures, rows_tokenizer
from measures.tiny import batches, tokenizer
from rich.console import Console

from imtok.measures import codecs
from imtok.measures.evaluate import evaluate
from imtok.measures.length import search_length
from imtok.measures.named import sections
from imtok.measures.report.briefs import briefs
from imtok.measures.report.page import page
from imtok.measures.report.titles import number
from imtok.measures.report.writing import markdown, show
from imtok.measures.settings import Settings
from imtok.pixels import to_float, to_uint8


class Cells(HTMLParser):
    """The texts of all cells of a page."""

    def __init__(self):
        super().__init__()
        self.cells, self.inside = [], False

    def handle_starttag(self, tag, attrs):
        self.inside = tag in ("td", "th")
        self.cells += [""] * self.inside

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.cells[-1] += data


@pytest.fixture
def reports(monkeypatch):
    monkeypatch.setattr(codecs, "QUALITIES", {"jpeg": (20,)})
    flexible = Settings(sections(("rate", "length", "language", "positions"), length={"target": 10.0}))
    grid = Settings(("rate", "language", "looks", "positions", "linear_probe"))
    return [
        evaluate(rows_tokenizer(), batch_of(pictures()), settings=flexible),
        evaluate(tokenizer("product"), batches(range(24), 8), settings=grid),
    ]


def test_every_table_stands_in_the_terminal_in_markdown_and_in_html(reports):
    shown = [{brief.title for brief in briefs(report)} for report in reports]
    assert shown[0] >= {"Quality against size", "Tokens for 10 dB", "Tokens as a language", "Entropy at each position"}
    assert shown[1] >= {"Most frequent codes of slot 0", "What a token of another image changes", "Linear probe"}
    for report in reports:
        console = Console(record=True, width=400, file=io.StringIO())
        show(report, console)
        printed, reader = console.export_text(), Cells()
        reader.feed(page(report))
        lines = {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in markdown(report).splitlines()}
        for brief in briefs(report):
            assert brief.title in printed
            for row in brief.rows:
                assert len(row) == len(brief.head)
                assert tuple(row) in lines
                for cell in row:
                    assert cell in printed
                    assert cell in reader.cells


def test_the_numbers_are_those_of_the_json(reports):
    tables, (rate, length, language, positions) = reports[0].tables, (
        next(brief for brief in briefs(reports[0]) if brief.title.startswith(start))
        for start in ("Quality", "Tokens for", "Tokens as", "Entropy")
    )  # fmt: skip
    assert [row[rate.head.index("PSNR (dB)")] for row in rate.rows] == [number(row["psnr"]) for row in tables["rate"]]
    assert ["share of images that reach it", number(tables["length"]["reached"])] in length.rows
    assert ["Huffman code (bits)", number(tables["language"][0]["huffman_bits"])] in language.rows
    assert [row[1] for row in positions.rows] == [
        number(value) for (value,) in tables["positions"]["entropy_bits_corrected"]
    ]


def test_images_that_never_reach_the_target_are_a_share_and_no_length():
    made, image = rows_tokenizer(shift=0.1), pictures()
    table = evaluate(made, batch_of(image), settings=Settings(sections(("length",), length={"target": 12.0}))).tables[
        "length"
    ]
    least, values = search_length(made, to_float(to_uint8(image)), 12.0, lengths=[1, 2, 4, 8], encode="each")
    reached, least = values >= 12, least.double()
    assert 0 < table["reached"] < 1
    assert table["reached"] == pytest.approx(reached.double().mean().item())
    assert table["missed"] == int((~reached).sum()) == len(image) - sum(table["images"])
    assert table["mean_of_reached"] == pytest.approx(least[reached].mean().item())
    assert table["mean_with_all_where_missed"] == pytest.approx(least.mean().item())
    assert table["mean_of_reached"] < table["mean_with_all_where_missed"]
