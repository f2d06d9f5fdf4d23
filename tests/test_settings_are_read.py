"""A key that is taken and then forgotten is worse than an unknown one: three published recipes have such keys."""

import ast
from pathlib import Path

import pytest

from imtok.plain import PATH_OF

PACKAGE = Path(__file__).parents[1] / "imtok"
TREES = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
SETTINGS = ["training/settings.py", "measures/settings.py", "commands/eval.py", "image_commands.py"]
SETTINGS += ["token_commands.py", *(f"commands/{command}.py" for command in PATH_OF)]


def reads(trees):
    """Names of attributes that are read somewhere, by a dot or by a string as in ``getattr``."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    dotted = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    return dotted | {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def used():
    """Names that are read by a dot or by ``get``, but for those of the checks of what was given."""
    checks = {
        id(node)
        for tree in TREES.values()
        for part in ast.walk(tree)
        if isinstance(part, ast.FunctionDef) and part.name == "check"
        for node in ast.walk(part)
    }
    nodes = [node for tree in TREES.values() for node in ast.walk(tree) if id(node) not in checks]
    got = {
        node.args[0].value
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get" and node.args
        if isinstance(node.args[0], ast.Constant)
    }
    return got | {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}


def forgotten(tree, read):
    """Arguments of the classes of a module that their ``__init__`` drops, or keeps where nothing looks."""
    for part in [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]:
        for function in [f for f in part.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"]:
            named = function.args.args[1:] + function.args.kwonlyargs
            body = [node for statement in function.body for node in ast.walk(statement)]
            used = {node.id for node in body if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
            kept = {
                node.value.id
                for node in body
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name)
                for target in node.targets
                if isinstance(target, ast.Attribute) and target.attr not in read
            }
            once = [node.id for node in body if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
            yield from (f"{part.name}.{one.arg}" for one in named if one.arg not in used)
            yield from (f"{part.name}.{name}" for name in kept if once.count(name) == 1)


@pytest.fixture(scope="module")
def read():
    return reads(TREES.values())


def test_no_part_forgets_an_argument(read):
    assert [name for tree in TREES.values() for name in forgotten(tree, read)] == []


@pytest.mark.parametrize("name", SETTINGS)
def test_no_setting_is_read_by_its_check_alone(name):
    tree, read = TREES[PACKAGE / name], used()
    fields = [
        f"{part.name}.{node.target.id}"
        for part in tree.body
        if isinstance(part, ast.ClassDef)
        for node in part.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    assert fields
    assert [field for field in fields if field.split(".")[1] not in read] == []


@pytest.mark.parametrize("body", ["pass", "self.pixelloss_weight = pixelloss_weight"])
def test_the_test_finds_a_dead_knob(body):
    """The pixel weight of three public repositories is taken by their loss and multiplies nothing."""
    tree = ast.parse(f"class Both:\n    def __init__(self, pixelloss_weight=1.0):\n        {body}\n")
    assert list(forgotten(tree, reads([tree]))) == ["Both.pixelloss_weight"]
