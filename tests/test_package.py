"""What ``import imtok`` gives, and what it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import imtok

ROOT = Path(__file__).parents[1]


def test_importing_imtok_imports_neither_torch_nor_anything_else_of_others():
    code = (
        "import sys, imtok; imtok.__version__, dir(imtok); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules} - {*sys.stdlib_module_names}))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["__main__", "imtok"]


@pytest.mark.parametrize("name", imtok.__all__)
def test_a_public_name_is_the_object_itself(name):
    found = getattr(imtok, name)
    assert getattr(sys.modules[found.__module__], name) is found
    assert name in dir(imtok)
    assert found.__doc__


def test_a_name_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(AttributeError, match=r"no attribute 'Tokeniser'; its names are .*Tokenizer"):
        imtok.Tokeniser  # noqa: B018, reading it is what is tried


def test_the_names_for_type_checkers_are_those_of_run_time():
    tree = ast.parse((ROOT / "imtok/__init__.py").read_text())
    told = {
        alias.name: node.module.removeprefix("imtok.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("imtok.")
        for alias in node.names
    }
    assert told == imtok._MODULES
    assert (ROOT / "imtok/py.typed").is_file()
