"""The session of docs/python.md runs as it stands there, importing imtok alone; files of before are read."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hubs import FolderHub
from PIL import Image

import imtok

ROOT = Path(__file__).parents[1]
SAVED = sorted(path.parent for path in (ROOT / "tests/saved").glob("*/tokenizers"))
TOKENIZERS = [path for saved in SAVED for path in sorted((saved / "tokenizers").iterdir())]
BLOCK = re.compile(r"^    import imtok\n(?:(?:    .*)?\n)+", re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run, a store of it and a picture, as a reader has them."""
    saved = SAVED[-1]
    shutil.copytree(saved / "tokenizers/fsq", tmp_path / "runs/mine/tokenizer")
    shutil.copytree(saved / "store", tmp_path / "tokens")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(tmp_path / "cat.jpg")
    FolderHub(tmp_path / "hub").install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_session_of_the_page_runs_with_imtok_alone(folder, capsys):
    code = BLOCK.search((ROOT / "docs/python.md").read_text())[0].replace("\n    ", "\n").strip()
    assert re.findall(r"^(?:import|from) .*", code, re.MULTILINE) == ["import imtok"]
    names = {}
    exec(compile(code, "docs/python.md", "exec"), names)
    side = names["tokenizer"].image_size
    lines = capsys.readouterr().out.splitlines()
    shape = list(names["ids"].shape)
    assert lines[0] == f"(256, 256) {shape} ({side}, {side})"
    assert lines[1] == "True {'license': 'apache-2.0'}"
    assert lines[2] == f"[8, {shape[1]}, {shape[2]}] [8, 3, {side}, {side}]"
    with Image.open("again.png") as again:
        assert again.size == (side, side)
    card = (folder / "hub/me/mine/1/README.md").read_text()
    assert "license: apache-2.0" in card
    assert (folder / "hub/me/mine/1/reconstructions.png").is_file()


@pytest.mark.parametrize(
    "path", [path for saved in SAVED for path in sorted((saved / "tokenizers").iterdir())], ids=str
)
def test_tokenizers_of_before_load_and_are_saved_as_they_were(path, tmp_path):
    tokenizer = imtok.Tokenizer.from_pretrained(path)
    assert tokenizer.metadata == {}
    tokenizer.save(tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (path / "model.safetensors").read_bytes()
    assert (tmp_path / "again/config.json").read_bytes() == (path / "config.json").read_bytes()
