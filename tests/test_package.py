"""What ``import imtok`` gives, and what it costs."""

import ast
import re
import subprocess
import sys
import tomllib
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


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {"PIL": "pillow", "hydra": "hydra-core"}
BROUGHT = {"omegaconf": "hydra-core", "yaml": "hydra-core", "markupsafe": "jinja2", "aiohttp": "fsspec"}
PHOTOGRAPHS = {"scikit-image", "scikit-learn"}  # of which only files are read


def name_of(requirement):
    return re.match(r"[\w-]+", requirement)[0]


def test_every_hard_dependency_has_its_reason_beside_it():
    text = (ROOT / "pyproject.toml").read_text()
    section = text[text.index("\ndependencies = [") : text.index("[project.optional-dependencies]")]
    lines = [line.strip() for line in section.splitlines() if line.strip().startswith('"')]
    assert len(lines) == len(PROJECT["dependencies"])
    for line in lines:
        assert re.search(r"\", +# \w.{5}", line), line
    assert PROJECT["authors"] == [{"name": "The imtok authors"}]


def test_what_imtok_imports_is_declared_and_what_is_declared_is_used():
    imported = set()
    for path in (ROOT / "imtok").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported |= {name.partition(".")[0] for name in names} - {*sys.stdlib_module_names, "imtok", ""}
    declared = {name_of(one) for one in PROJECT["dependencies"]}
    used = {BROUGHT.get(name, DISTRIBUTIONS.get(name, name)) for name in imported}
    assert used <= declared
    assert declared - used <= PHOTOGRAPHS


def test_the_page_of_libraries_names_every_dependency_and_every_extra():
    page = (ROOT / "docs/libraries.md").read_text()
    named = set(
        re.findall(r"[\w-]+", " ".join(line.split("|")[1] for line in page.splitlines() if line.startswith("|")))
    )
    assert {name_of(one) for one in PROJECT["dependencies"]} <= named
    for extra, requirements in PROJECT["optional-dependencies"].items():
        if extra not in ("test", "bench"):
            assert f"imtok[{extra}]" in page
            assert all(name_of(one) in page for one in requirements)


def imported_at_start(module, seen):
    """Packages of others that a module of imtok imports at its top, by itself or by other modules of imtok."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    path = path if path.is_file() else ROOT / module.replace(".", "/") / "__init__.py"
    if module in seen or not path.is_file():
        return set()
    seen.add(module)
    found = set()
    for node in ast.parse(path.read_text()).body:
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            own = name.startswith("imtok.")
            found |= imported_at_start(name, seen) if own else {name.partition(".")[0]}
    return found


def test_to_load_a_tokenizer_takes_none_of_the_large_packages_but_torch():
    found = imported_at_start("imtok.tokenizer", set())
    assert {"torch", "numpy", "PIL", "huggingface_hub"} <= found
    assert not found & {
        "torchvision",
        "torchmetrics",
        "lightning",
        "hydra",
        "omegaconf",
        "wandb",
        "webdataset",
        "matplotlib",
    }
