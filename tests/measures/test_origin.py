"""A report says what it is of, and nothing in a name can make a report say something else."""

import hashlib
import io
import json
import re
import subprocess
from dataclasses import replace
from html import unescape

import pytest
from markdown_it import MarkdownIt
from measures.tiny import QUANTIZERS, batches, tokenizer
from PIL import Image
from rich.console import Console

from imtok.commands.score import score_origin
from imtok.data.sources.folder import Folder
from imtok.data.sources.photos import Photos
from imtok.measures.evaluate import evaluate
from imtok.measures.protocol import Protocol, prepare
from imtok.measures.report.origin import Origin, describe_data
from imtok.measures.report.page import page
from imtok.measures.report.writing import show, write_report
from imtok.paste import shell_line
from imtok.text import markdown, markdown_table, plain, plain_lines, terminal

DATA = {"_target_": "imtok.data.sources.folder.Folder", "path": "my photos", "val_path": None, "flip": True}
ORIGIN = Origin(DATA, "val", "runs/mine", "imtok eval tokenizer=runs/mine data=folder 'data.path=my photos' split=val")
HOSTILE = [
    "`<img src=x onerror=alert(1)>`.jpg",
    "<script>alert(1)</script>",
    "a|b\n\n# heading\n- item",
    "[click](javascript:alert(1))![](http://evil/x.png)",
    "\x1b[31mred\x1b[0m\u202egnp.exe",
    "[bold]bold[/bold] *a* _b_ ~~c~~ $d$ &lt;img&gt; \\`<b>`",
    "``` ` ``` <!-- --> ![x][y]",
    "__init__ _a_b_ a_b__c _*_ *_a_* x_ _y ä_ö_",
]


def report_of(bad=(), **changes):
    given = batches(range(6))
    given[0].bad.extend(bad)
    return replace(evaluate(tokenizer(), given), name="mine", origin=ORIGIN, **changes)


def test_every_report_names_its_data_its_tokenizer_its_time_and_its_command(tmp_path):
    report = report_of(bad=["x.jpg: is empty"])
    write_report(report, tmp_path / "report")
    stored = json.loads((tmp_path / "report/report.json").read_text())
    assert {name: stored["data"][name] for name in ("kind", "path", "split", "images", "unreadable", "image_size")} == {
        "kind": "folder", "path": "my photos", "split": "val", "images": 6, "unreadable": 1, "image_size": [32, 32]
    }  # fmt: skip
    assert stored["tokenizer"] == "runs/mine"
    assert len(stored["tokenizer_sha256"]) == 64
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", stored["when"])
    assert stored["command"] == ORIGIN.command
    assert stored["versions"]["imtok"]
    console = Console(record=True, width=200, file=io.StringIO())
    show(report, console)
    words = "folder, path my photos, split val: 6 images of 32x32 pixels; 1 more could not be read and is not counted"
    assert words in console.export_text()
    text = (tmp_path / "report/report.md").read_text()
    for place in (text, unescape((tmp_path / "report/report.html").read_text())):
        for fact in (words, stored["when"], stored["tokenizer_sha256"]):
            assert fact in place
    assert f"\n    {ORIGIN.command}\n" in text  # in a block, as it is typed
    assert "data.path=my photos" in place


def test_a_report_from_python_says_what_it_knows(tmp_path):
    report = evaluate(tokenizer(), batches(range(6)))
    write_report(report, tmp_path / "report")
    text = (tmp_path / "report/report.md").read_text()
    assert "- Data: 6 images of 32x32 pixels\n" in text
    assert "command" not in text


def test_the_split_that_the_data_chose_is_named(tmp_path):
    for number in range(40):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / f"{number}.png")
    folder, photos = Folder(tmp_path), Photos(["chelsea"])
    for data, own in ((folder, "all"), (photos, "val")):
        assert data.default_split == own
        assert data.evaluation(16).digest == data.evaluation(16, own).digest
    assert len(prepare(folder.evaluation(16), Protocol("adm"), 3)) == 3


def test_parts_of_a_mixture_are_named_by_their_paths():
    mixture = {"_target_": "imtok.data.sources.mixture.Mixture", "parts": {"a": DATA, "b": {**DATA, "path": "others"}}}
    words = describe_data(Origin(mixture, "all").about_data())
    assert words == "mixture, parts.a.path my photos, parts.b.path others, split all"


def test_names_of_metrics_can_be_searched_for():
    assert markdown("fd_efflite0_224 of __x__") == "fd_efflite0_224 of \\_\\_x\\_\\_"


def test_a_score_names_what_it_is_of():
    found = score_origin("samples.npz", "VIRTUAL.npz", "imtok score images=samples.npz")
    assert (found["data"], found["reference"]) == ("samples.npz", "VIRTUAL.npz")
    assert found["when"].endswith("Z")


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_is_anything_but_text_in_markdown(name):
    rows = markdown_table(["file", "why"], [[name, "is empty"]])
    text = "\n".join([f"- {markdown(name)}", "", f"{markdown(name)} is text.", "", *rows])
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = reader.parse(text)
    assert [token.type for token in tokens if token.type.startswith(("fence", "code", "html", "heading"))] == []
    inline = [child for token in tokens if token.type == "inline" for child in token.children or ()]
    assert {child.type for child in inline} <= {"text", "text_special"}
    shown = ["".join(child.content for child in token.children) for token in tokens if token.type == "inline"]
    assert shown == [plain(name), f"{plain(name)} is text.", "file", "why", plain(name), "is empty"]


def test_report_md_has_no_html_of_a_name(tmp_path):
    given = batches(range(6))
    report = replace(
        evaluate(tokenizer(), given),
        bad=[f"{name}: is empty" for name in HOSTILE],
        warnings=HOSTILE,
        absent={"rfid": HOSTILE[4], "kid": HOSTILE[5]},
        origin=Origin({**DATA, "path": HOSTILE[0]}, "val", HOSTILE[1], shell_line(*HOSTILE)),
    )
    write_report(report, tmp_path / "report")
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse((tmp_path / "report/report.md").read_text())
    inline = [child for token in tokens if token.type == "inline" for child in token.children or ()]
    assert {child.type for child in inline} <= {"text", "text_special", "image"}
    assert [child.attrs["src"] for child in inline if child.type == "image"] == ["grid.png"]
    assert not [token for token in tokens if token.type.startswith("html")]
    assert [token.content for token in tokens if token.type == "code_block"] == [shell_line(*HOSTILE) + "\n"]
    console = Console(record=True, width=400, file=io.StringIO(), force_terminal=True)
    show(report, console)
    shown = console.export_text(styles=False)
    assert plain(HOSTILE[4]) in shown
    assert HOSTILE[5] in shown


def test_report_html_shows_what_does_not_print_and_turns_no_text_around(tmp_path):
    spoilt = HOSTILE[4] + "\u2028\x07"
    report = replace(report_of([f"{spoilt}: is empty"]), name=spoilt, warnings=[spoilt])
    report.pictures.keys[0] = spoilt
    text = page(report)
    assert not set(text) & set("\x1b\u202e\u2028\x07")
    # title, heading, lead, warning, name of the pictures twice, three pictures, bad sample
    assert text.count("\\u202egnp.exe") == 10


def test_a_message_of_several_lines_keeps_these_and_nothing_else_that_does_not_print():
    assert plain_lines("two\x1b[2J\nlines") == "two\\x1b[2J\nlines"


def test_markup_and_colours_of_a_name_are_shown_as_they_are_written():
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(terminal("[red]a[/red]\x1b[2J"))
    assert console.export_text() == "[red]a[/red]\\x1b[2J\n"


def test_a_command_is_one_line_that_a_shell_reads_back():

    arguments = [*HOSTILE, "data.path=C:/My 'Pictures' (1)", "", "Größe", "a\tb"]
    assert "\n" not in shell_line(*arguments)
    script = f"printf '%s\\0' {shell_line(*arguments)}"
    read = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
    assert read.decode().split("\0")[:-1] == arguments


def test_the_hash_of_an_ema_tokenizer_is_that_of_versions_that_kept_no_running_shares(monkeypatch):
    """Or its stores and reports of then would be called those of another tokenizer."""
    monkeypatch.setitem(QUANTIZERS, "ema", {"_target_": "imtok.quantizers.ema_vq.EMAVQ", "dim": 4, "codebook_size": 32})
    tokenized = tokenizer("ema")
    before = hashlib.sha256(json.dumps(tokenized.config, sort_keys=True, separators=(",", ":")).encode())
    for name, value in sorted(tokenized.state_dict().items()):
        if name != "quantizer.usage":
            before.update(f"{name} {value.dtype} {list(value.shape)}".encode() + value.numpy().tobytes())
    assert tokenized.fingerprint() == before.hexdigest()
    tokenized.quantizer.sums[0] += 1
    assert tokenized.fingerprint() != before.hexdigest()
