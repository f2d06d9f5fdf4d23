"""Each command that the docs show is one that imtok takes: known keys and options, words that can be read."""

import sys
from importlib import import_module

import hydra
import pytest
from pages import ROOT, blocks, joined, words

from imtok import cli
from imtok.plain import PLAIN, read_words

FOLLOWED = (
    "quantizer",
    "measure",
    "data_source",
)  # tutorials with parts of their own, which tests/test_tutorials.py runs
PAGES = [ROOT / "CONTRIBUTING.md", *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.stem not in FOLLOWED)]
SCRIPTS = (["python", "train.py"], ["python", "eval.py"])
LAUNCHERS = ("torchrun", "srun")
FOREIGN = ("--dataset=images", "--out_dir=out", "--start=FILE:prompt.txt")  # of nanoGPT's scripts
PLACES = {"experiment=NAME": "experiment=llamagen_vq16", "...": ""}  # that a reader fills in


def imtok_commands(page):
    """Commands of imtok on a page, as ``command, arguments``."""
    for block in blocks(page):
        for line in joined(block.lines):
            try:
                found = words(line)
            except ValueError:  # no shell
                continue
            for command in found:
                command = [PLACES.get(word, word) for word in command if PLACES.get(word, word)]
                while command and "=" in command[0] and not command[0].startswith("'"):
                    command = command[1:]  # PYTHONPATH=.
                if command and command[0] in LAUNCHERS:
                    scripts = [word for word in command if word in ("train.py", "imtok.cli")]
                    command = ["python", *command[command.index(scripts[0]) :]] if scripts else []
                if command[:1] == ["imtok"] and len(command) > 1:
                    yield command[1], command[2:]
                elif command[:2] == ["python", "imtok.cli"]:
                    yield command[2], command[3:]
                elif command[:2] in SCRIPTS and not any(word in FOREIGN for word in command):
                    yield command[1].removesuffix(".py"), command[2:]


COMMANDS = sorted(
    {(page.relative_to(ROOT).as_posix(), name, *rest) for page in PAGES for name, rest in imtok_commands(page)}
)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder with the parts that the pages call a reader's own."""
    (tmp_path / "mine").mkdir()
    net = "class Net(Extractor):\n    def extract(self, levels): ...\n"
    vault = "class Vault:\n    def __call__(self, url): ...\n"
    pipeline = "class Mine:\n    def __init__(self, urls): ...\n    def __iter__(self): ...\n"
    (tmp_path / "mine/__init__.py").write_text(f"from imtok.extractors.base import Extractor\n{net}{vault}{pipeline}")
    own = "class Mine(FSQ):\n    def __init__(self, levels): super().__init__(levels)\n"
    (tmp_path / "mine/quantizers.py").write_text(f"from imtok.quantizers.fsq import FSQ\n{own}")
    (tmp_path / "conf/quantizer").mkdir(parents=True)
    (tmp_path / "conf/quantizer/mine.yaml").write_text("_target_: mine.quantizers.Mine\nlevels: [8, 8]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_of_the_docs_composes(command, monkeypatch, capsys):
    _, name, *arguments = command
    monkeypatch.setattr(hydra, "main", lambda **_: lambda _: lambda: None)  # it would run the command
    for plain in PLAIN:
        module = import_module(f"imtok.commands.{'import_' if plain == 'import' else plain}")
        monkeypatch.setattr(module, "run", lambda given, plain=plain: read_words(plain, given))
    monkeypatch.setattr(sys, "argv", ["imtok", name, *arguments])
    code = 0
    try:
        cli.main()
    except SystemExit as ended:
        code = ended.code
    assert not code, capsys.readouterr().err
