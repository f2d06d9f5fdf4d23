"""What the README says is so: every command runs as printed, in the order of the page; every link leads somewhere."""

import logging
import re
import sys

import numpy as np
import pytest
import yaml
from pages import ROOT, anchors, blocks, joined, links, words
from PIL import Image

import imtok
from imtok import cli
from imtok.cli import main, run_hydra
from imtok.config import check_command
from imtok.errors import InputError

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = {  # not run here: .ci/run makes a fresh environment and runs them
    "pip install -e .",
    "pip install -e .[test]",
    "pytest",
}
SMALL = {  # so that a run takes a second; what a command says itself stays
    "trainer.max_steps": "2",
    "trainer.batch_size": "2",
    "trainer.workers": "0",
    "trainer.accelerator": "cpu",
    "optimizer.warmup_steps": "1",
}
SMALL_PHOTOS = {"data.crops_per_photo": "2", "data.held_out": "[chelsea]"}


def typed():
    """Every command of the page with what it is shown to print."""
    found = []
    for block in blocks(README):
        if block.language == "sh":
            found += [(command, []) for line in joined(block.lines) for command in words(line)]
        elif block.language == "console":
            for line in block.lines:
                if line.startswith("$ "):
                    found += [(command, []) for command in words(line.removeprefix("$ "))]
                else:
                    found[-1][1].append(line)
    return found


def ran(command, monkeypatch, capfd, caplog):
    """Run a command in this process, a run at its smallest; returns what it printed."""
    monkeypatch.setattr(sys, "argv", command)
    train = command[:2] in (["imtok", "train"], ["python", "train.py"])
    if train and "--help" not in command:
        given = {word.partition("=")[0] for word in command}
        small = SMALL | ({} if "data" in given else SMALL_PHOTOS)
        command = [*command, *(f"{key}={value}" for key, value in small.items() if key not in given)]
    capfd.readouterr()
    caplog.clear()
    code = 0
    try:
        if command[0] == "imtok":
            monkeypatch.setattr(sys, "argv", command)
            main()
        elif command[0] == "python" and command[1] in ("train.py", "eval.py"):
            monkeypatch.setattr(sys, "argv", command[1:])
            run_hydra(command[1].removesuffix(".py"))
        else:
            pytest.fail(f"the README has a command that this test does not know how to run: {' '.join(command)}")
    except SystemExit as ended:
        code = ended.code
    assert not code, capfd.readouterr().err
    said = [f"imtok: {record.getMessage()}" for record in caplog.records]
    return "\n".join([*said, capfd.readouterr().out])


def shape(line):
    """A line without its numbers."""
    return re.sub(r"[\d.,]*\d", "0", line.strip())


def test_the_page_begins_with_what_a_tokenizer_is_for_and_the_two_commands():
    lines = README.read_text().splitlines()
    assert 80 <= len(lines) <= 110
    assert lines[2].startswith("An image tokenizer turns a picture into")
    first = [line for block in blocks(README) if block.language == "sh" for line in block.lines][:2]
    assert first == ["pip install -e . && python train.py", "pip install -e '.[test]' && pytest"]
    assert lines.index(first[0]) < 30


def test_the_page_has_no_code_that_is_not_tried():
    assert {block.language for block in blocks(README)} == {"python", "sh", "console", "bibtex"}


def test_every_command_runs_as_printed_in_the_order_of_the_page(tmp_path, monkeypatch, capfd, caplog):
    numbers = np.random.default_rng(0)
    (tmp_path / "photos/cats").mkdir(parents=True)
    for name in ["cat.jpg", *(f"cats/{number}.png" for number in range(40))]:
        Image.fromarray(numbers.integers(0, 256, (80, 100, 3), dtype=np.uint8)).save(tmp_path / "photos" / name)
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO)
    commands = [(command, shown) for command, shown in typed() if " ".join(command) not in ELSEWHERE]
    assert len(commands) >= 7
    for command, shown in commands:
        printed = [shape(line) for line in ran(command, monkeypatch, capfd, caplog).splitlines()]
        for line in shown:
            start, cut = shape(line.removesuffix("...")), line.endswith("...")
            found = any(one.startswith(start) if cut else one == start for one in printed)
            assert found, f"{' '.join(command)} does not print: {line}"
    (python,) = [block for block in blocks(README) if block.language == "python"]
    exec("\n".join(python.lines), {})
    with Image.open("again.png") as again:
        assert again.size == (64, 64)


WITH = {"train": ["out=runs/mine"], "export": ["tokenizer=runs/mine"], "eval": ["tokenizer=runs/mine"]}


def inline():
    """What stands between backticks in the page's sentences."""
    prose = re.sub(r"^```.*?^```", "", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


@pytest.mark.parametrize("override", sorted({code for code in inline() if re.fullmatch(r"[\w.]+=\S+", code)}))
def test_every_setting_in_a_sentence_is_one_that_a_command_takes(override):
    refused = list[str]()
    for command, needed in WITH.items():
        try:
            check_command(command, [override, *needed])
        except InputError as error:
            refused.append(str(error))
    assert len(refused) < len(WITH), refused


def test_every_command_in_a_sentence_is_one_of_imtok():
    named = {code.split()[1] for code in inline() if code.startswith("imtok ")}
    assert {"train", "export", "import"} <= named <= set(cli.COMMANDS)


def test_what_it_says_of_recipes_is_what_the_recipes_say():
    rows = re.findall(
        r"^\| [\w, ]+ \| (`\w+`.*?) \| (.*?) \| (.*?) \| (.*?) \|", README.read_text(), flags=re.MULTILINE
    )
    page = (ROOT / "docs/recipes.md").read_text()
    assert len(rows) >= 10
    for recipes, papers, tokens, bits in rows:
        for recipe in re.findall(r"`([a-z]\w+)`", recipes):
            assert (ROOT / f"configs/experiment/{recipe}.yaml").is_file(), recipe
            row = next(line for line in page.splitlines() if line.startswith(f"| `{recipe}` |")).split(" | ")
            assert re.findall(r"abs/([\d.]+)", row[2])[0] in papers, recipe
            if "to" not in tokens.split():
                assert row[4] in re.findall(r"\d+", tokens), recipe
            if "to" not in bits.split() and row[5] != "continuous":
                assert row[5] in re.findall(r"[\d,]*\d", bits), recipe


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    for target in links(page):
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target}"


def test_every_page_can_be_reached_from_the_readme():
    reached, ahead = set(), [README]
    while ahead:
        page = ahead.pop()
        reached.add(page)
        targets = {(page.parent / link.partition("#")[0]).resolve() for link in links(page)}
        ahead += [target for target in targets if target.suffix == ".md" and target not in reached]
    assert {page for page in PAGES if page not in reached} == set()


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == imtok.__version__
    assert f"version = {{{imtok.__version__}}}" in README.read_text()
    assert f"title = {{{cited['title']}}}" in README.read_text()
