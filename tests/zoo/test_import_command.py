"""``imtok import`` from the command line to a tokenizer folder."""

import sys

import pytest
from zoo.containers import compose, fabricate

from imtok import cli
from imtok.commands.import_ import run_import
from imtok.errors import InputError
from imtok.tokenizer import Tokenizer
from imtok.zoo.registry import SOURCES


def test_the_command_writes_a_tokenizer_and_says_what_became_of_the_keys(tmp_path, monkeypatch, capsys):
    _, tensors, path = fabricate("llamagen", tmp_path)
    command = ["imtok", "import", "source=llamagen", f"path={path}", f"out={tmp_path / 'out'}", "image_size=32"]
    monkeypatch.setattr(sys, "argv", command)
    cli.main()
    shown = capsys.readouterr().out
    assert "window of used codes" in shown
    assert "taken: live weights, entry model of the file" in shown
    assert "assumed: convolutions: 32 groups in each norm, as in the public nets (groups=NUMBER)" in shown
    encoder = sum(name.startswith(("encoder.", "quant_conv.")) for name in tensors)
    assert any("CNNEncoder" in line and str(encoder) in line for line in shown.splitlines())
    assert Tokenizer.load(tmp_path / "out").image_size == 32


def test_a_refused_checkpoint_writes_nothing_and_ends_with_code_2(tmp_path, monkeypatch, capsys):
    _, _, path = fabricate("llamagen", tmp_path)
    monkeypatch.setattr(sys, "argv", ["imtok", "import", "source=taming", f"path={path}", f"out={tmp_path / 'out'}"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["source=llamagen"], "also needs path= .*; out="),
        (["source=llama", "path=a", "out=new"], "source=llama is not known; there are .*llamagen"),
        (["sauce=llamagen"], "imtok import takes source=NAME path=FILE out=DIR"),
        (["source=llamagen", "path=none.pt", "out=new"], r"path=none\.pt is not a file"),
        (["source=llamagen", "path=a", "out=new", "image_size=big"], "image_size must be a number of pixels, got big"),
        (["source=llamagen", "path=a", "out=new", "heads=0"], "heads must be a number, got 0"),
        (["source=llamagen", "path=a", "out=new", "normalize=yes"], "normalize must be true or false, got yes"),
        (["source=llamagen", "path=a", "out=full"], "already holds something else"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, monkeypatch, arguments, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(InputError, match=reason):
        run_import(arguments, compose)


def test_every_source_says_of_which_paper_it_is():
    assert all("arXiv" in source.title for source in SOURCES.values())
