"""The commands without a config name a word that they do not know, and answer --help."""

import sys
from pathlib import Path

import pytest

from imtok.cli import main
from imtok.errors import InputError
from imtok.plain import PLAIN, GivenWords, read_words, with_path


@pytest.mark.parametrize(
    ("name", "words", "reason"),
    [
        ("check", [], "imtok check takes"),
        ("check", ["a", "--worker=2"], "--worker=2: no such argument; did you mean workers? imtok check takes"),
        ("check", ["a", "b"], "b: one argument too many; imtok check takes"),
        ("check", ["a", "-x"], "-x: no such argument; imtok check takes"),
        ("info", ["a", "device=cpu"], "device=cpu: no such argument; imtok info takes"),
        ("verify", ["a", "tokeniser=b", "out=c"], "tokeniser=b: no such argument; did you mean tokenizer? "),
        ("verify", ["a", "out=b", "out=c"], "out is given twice, b and c"),
        ("compare", ["a"], "imtok compare takes two or more"),
        ("compare", ["a", "b", "metric=psnr"], "metric=psnr: no such argument; "),
        ("import", ["sauce=x"], "sauce=x: no such argument; did you mean source? "),
        ("import", ["llamagen"], "llamagen: one argument too many; imtok import takes source=NAME"),
        ("check", [""], "a path is empty; imtok check takes"),
        ("check", ["path="], "a path is empty; imtok check takes"),
        ("info", ["~nobody-here/x"], "~nobody-here/x: there is no such user"),
    ],
)
def test_a_word_that_a_command_does_not_know_is_named(name, words, reason):
    with pytest.raises(InputError) as error:
        read_words(name, words)
    assert str(error.value).startswith(reason)
    assert "\n" not in str(error.value)


def test_paths_are_taken_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    Path("a=b").mkdir()
    assert read_words("check", ["a=b"]) == GivenWords(["a=b"], {})
    assert read_words("check", ["path=Größe (1)", "--workers", "2"]) == GivenWords(["Größe (1)"], {"workers": "2"})
    assert read_words("import", ["path=~/x,y", "out=[a]"]) == GivenWords([], {"path": "/home/me/x,y", "out": "[a]"})
    assert read_words("check", ["data.path=photos"]) == GivenWords(["photos"], {})
    assert read_words("info", ["tokenizer=~/run"]) == GivenWords(["/home/me/run"], {})


@pytest.mark.parametrize(
    ("word", "meant"), [("trian", "did you mean train? there"), ("runs/a", "there"), ("-m", "there")]
)
def test_a_command_that_is_none_is_named(word, meant, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["imtok", word])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"imtok: there is no command {word}; {meant} are train, eval, ")


@pytest.mark.parametrize("name", PLAIN)
def test_help_says_what_a_command_takes(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["imtok", name, "--help"])
    main()
    printed = capsys.readouterr().out
    assert printed.startswith(f"imtok {name} takes ")
    assert f"\n  imtok {name} " in printed
    assert all(f"  {key}" in printed for key in PLAIN[name].keys)


@pytest.mark.parametrize(
    ("command", "words", "full"),
    [
        ("eval", ["runs/mine"], ["tokenizer=runs/mine"]),
        ("eval", ["hf:org/name@v1", "n=3"], ["tokenizer=hf:org/name@v1", "n=3"]),
        ("export", ["-m", "here", "seed=1,2"], ["-m", "tokenizer=here", "seed=1,2"]),
        ("convert", ["here", "format=rar"], ["store=here", "format=rar"]),
        ("train", ["here"], ["data=folder", "data.path=here"]),
        ("train", ["quantizer", "=", "fsq"], ["quantizer", "=", "fsq"]),
        ("train", ["fsq"], ["fsq"]),
        ("train", ["seed=1", "here"], ["seed=1", "here"]),
        ("train", [], []),
    ],
)
def test_a_path_that_stands_first_needs_no_key(command, words, full, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert with_path(command, words) == full
