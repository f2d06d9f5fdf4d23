"""Imports point one way: a module may import only from rows above its own; and no file grows beyond 400 lines."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "imtok"
ROWS = [
    "errors", "system", "text", "tables", "bars", "types", "pixels", "grid", "files", "shard_folder",
    "folders", "locate", "paste",
    "plain", "schedules", "distributed", "weight_files", "weights", "pretrained", "construct", "sealed", "nn",
    "spaces", "conditions", "encoders", "quantizers", "regularizers", "decoders", "critics", "losses", "extractors",
    "data", "pictures", "card", "stored", "hub", "tokenizer", "whole", "info", "objectives", "measures", "export",
    "priors", "classifiers", "zoo", "training", "overrides", "options", "hints", "explain", "swaps", "signatures",
    "unread", "optimizer_section", "config", "run_data", "build", "continued", "sweeps", "image_commands",
    "command_line", "token_commands", "stages",
    "commands", "running", "help", "completion", "cli", "__main__", "__init__",
]  # fmt: skip
LEVEL = {name: level for level, name in enumerate(ROWS)}
SAME_ROW = [{"errors", "types", "pixels"}, {"schedules", "distributed", "files"}]
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path):
    """Modules that a file imports, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_up(path):
    here = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for module in imports(path):
        if not module.startswith("imtok."):
            continue
        there = module.split(".")[1]
        assert there == here or LEVEL[there] < LEVEL[here], f"{here} must not import {there}"
        assert there == here or not any({there, here} <= row for row in SAME_ROW), f"{here} and {there} share a row"


def test_only_training_imports_lightning():
    users = {
        path.relative_to(PACKAGE).parts[0] for path in FILES if any(m.startswith("lightning") for m in imports(path))
    }
    assert users == {"training"}


def test_only_the_last_rows_import_hydra():
    hydra = {
        path.relative_to(PACKAGE).with_suffix("").parts[0]
        for path in FILES
        if any(m.startswith(("hydra", "omegaconf")) for m in imports(path))
    }
    assert hydra <= set(ROWS[ROWS.index("overrides") :])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_above_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


UNSAFE = re.compile(
    r"weights_only=False|pickle\.load|yaml\.load\(|shell=True|extractall|os\.system|(?<![\w.])(eval|exec)\("
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_runs_code_from_data(path):
    text = path.read_text()
    for line in text.splitlines():
        assert not UNSAFE.search(line), line
        assert "torch.load(" not in line or "weights_only=True" in line, line
        assert "np.load(" not in line or "allow_pickle=False" in line, line


def test_no_test_imports_another_test_module():
    """What two of them need stands in a module of its own, so that a test can be changed without a look at others."""
    tests = Path(__file__).parent
    for path in tests.rglob("*.py"):
        for module in imports(path):
            assert not module.rpartition(".")[2].startswith("test_"), path
