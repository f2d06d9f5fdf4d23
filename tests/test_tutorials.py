"""Every block of code of Start and of the tutorials runs, in the order of its page, at its smallest."""

import logging
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from pages import ROOT, blocks, joined, words
from PIL import Image
from zoo.containers import fabricate

from imtok.cli import main

STAYS = {"pip"}  # not run here
SMALL = {
    "train": ["trainer.max_steps=2", "trainer.batch_size=2", "trainer.workers=0", "trainer.accelerator=cpu",
              "trainer.pictures_every=0"],
    "prior": ["trainer.max_steps=2", "trainer.batch_size=2", "prior.trunk.width=16", "prior.trunk.depth=1"],
    "probe": ["trainer.max_steps=2", "trainer.batch_size=2", "prior.trunk.width=16", "prior.trunk.depth=1"],
    "eval": ["n=2", "batch_size=2"],
    "sample": ["n=2", "batch_size=2"],
    "pack": ["workers=0"],
}  # fmt: skip
RECIPE = ["size=tiny", "judges=found"]
FAST = ("tutorials/quantizer", "tutorials/measure", "tutorials/data_source")
SLOW = (
    "start/own_folder", "start/gpu", "tutorials/text", "tutorials/generator", "tutorials/decoder", "tutorials/compare",
)  # fmt: skip
CHECKPOINTS = {"vq_ds16_c2i.pt": "llamagen", "maskgit-vqgan-imagenet-f16-256.bin": "maskgit_vqgan"}


def smaller(command: list[str]) -> list[str]:
    """A command of imtok whose run takes a second; recipes at size=tiny."""
    given = {word.partition("=")[0] for word in command}
    more = list(SMALL.get(command[1], []))
    if "experiment" in given:
        command = [word for word in command if not word.startswith("size=")]
        more += [word for word in RECIPE if word.partition("=")[0] not in given - {"size"}]
    elif "ckpt" in given:  # the run goes on by its own settings
        return command
    changed = [word for word in command if word.partition("=")[0] not in {one.partition("=")[0] for one in more}]
    return [*changed, *more]


def run(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the commands of a line in this process."""
    for command in words(line):
        if command[0] == "export":
            name, _, value = command[1].partition("=")
            monkeypatch.setenv(name, value)
        elif command[0] == "imtok":
            monkeypatch.setattr(sys, "argv", smaller(command))
            code: object = 0
            try:
                main()
            except SystemExit as ended:
                code = ended.code
            assert not code, line
        else:
            assert command[0] in STAYS, line


def write(lines: list[str]) -> bool:
    """Write a block that begins with the name of its file; False if it does not."""
    named = re.fullmatch(r"# ([\w/]+\.(?:py|yaml))", lines[0])
    if named:
        Path(named[1]).parent.mkdir(parents=True, exist_ok=True)
        Path(named[1]).write_text("\n".join(lines) + "\n")
    return named is not None


def follow(page: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Do what a page says; returns how many blocks of each language there were."""
    count = dict.fromkeys(("sh", "python", "yaml"), 0)
    for block in blocks(ROOT / f"docs/{page}.md"):
        if block.language not in count or not block.lines:
            continue
        count[block.language] += 1
        if block.language == "sh":
            for line in joined(block.lines):
                run(line, monkeypatch)
        elif not write(block.lines):
            exec(compile("\n".join(block.lines), f"docs/{page}.md", "exec"), {"__name__": "page"})
    return count


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs with classes and a run, as a reader of the first page has them."""
    folder = tmp_path_factory.mktemp("mine")
    numbers = np.random.default_rng(0)
    for name in ["cat.jpg", *(f"cats/{number}.png" for number in range(60))]:
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers.integers(0, 256, (80, 100, 3), dtype=np.uint8)).save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("imtok train data=folder data.path=photos out=runs/mine", patch)
    return folder


@pytest.fixture
def reader(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    """A folder of one's own with these, in which Python also finds packages."""
    caplog.set_level(logging.WARNING)
    shutil.copytree(mine, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize("page", FAST)
def test_the_blocks_of_a_page_run_in_their_order(page, reader, monkeypatch):
    count = follow(page, monkeypatch)
    assert count["sh"] > 0
    assert count["python"] > 0


@pytest.mark.slow  # tests/test_readme.py runs the commands of start/own_folder in each run of the tests
@pytest.mark.parametrize("page", SLOW)
def test_the_blocks_of_a_long_page_run_in_their_order(page, reader, monkeypatch):
    for file, source in CHECKPOINTS.items() if page == "tutorials/compare" else ():
        Path(fabricate(source, reader)[2]).replace(reader / file)
    if page == "start/own_folder":
        shutil.rmtree(reader / "runs")
    assert follow(page, monkeypatch)["sh"] > 0


def test_every_page_of_start_and_of_the_tutorials_is_followed():
    pages = {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in (ROOT / "docs").glob("*/*.md")}
    pages = {page for page in pages if page.startswith(("start/", "tutorials/"))}
    assert pages == {
        *FAST,
        *SLOW,
        "start/cluster",
    }  # whose commands need several machines: tests/test_docs.py reads them
