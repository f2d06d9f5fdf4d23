"""What a command prints to be pasted is read by the shell and by Hydra as it was meant."""

import shlex
import subprocess

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from odd import ODD

from imtok.overrides import as_typed
from imtok.paste import imtok_line, override, shell_line

VALUES = [
    *ODD,
    "",
    "runs/mine",
    "null",
    "True",
    "~/x",
    "a b",
    "${x}",
    "\\'",
    "a\\\\'b\\",
    "./2020",
    "..x",
    "3d",
    "a\tb",
]


def words(line):
    """The words that a shell makes of a line."""
    read = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True).stdout
    return read.decode().split("\0")[:-1]


def read(word):
    return OverridesParser.create().parse_override(as_typed([word])[0]).value()


@pytest.mark.parametrize("value", VALUES)
def test_a_pasted_text_comes_back(value):
    for key in ("data.path", "data.label"):
        assert read(words(imtok_line("eval", override(key, value)))[2]) == value


@pytest.mark.parametrize("value", [3, 1e-5, True, None, ["a b", 2, "it's", "ü"], [], {"a": "ü", "b": [1, None]}])
def test_a_pasted_value_comes_back(value):
    assert read(shlex.split(imtok_line("eval", override("data.label", value)))[2]) == value


def test_what_is_plain_stays_readable():
    assert shell_line("imtok", "eval", "tokenizer=runs/mine") == "imtok eval tokenizer=runs/mine"
    assert imtok_line("export", tokenizer="fotos/größe") == 'imtok export "tokenizer=fotos/größe"'
