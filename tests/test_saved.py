"""What imtok has saved before is read as it was: tokenizers, a store and a run, of every folder in ``tests/saved``."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from saved.make import RUN, outcome
from training.launch import run_command

from imtok.tokenizer import Tokenizer

SAVED = Path(__file__).parent / "saved"
FOLDERS = sorted(path.parent for path in SAVED.glob("*/tokenizers"))
TOKENIZERS = [path for folder in FOLDERS for path in sorted((folder / "tokenizers").iterdir())]
# Other processors add up in another order, so floats are compared within their rounding, and whole numbers exactly.
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def test_there_are_tokenizers_of_every_kind():
    assert len(TOKENIZERS) >= 10


@pytest.mark.parametrize("folder", TOKENIZERS, ids=lambda path: f"{path.parents[1].name}/{path.name}")
def test_a_tokenizer_gives_the_ids_and_images_that_it_gave(folder):
    expected, found = load_file(folder / "outcome.safetensors"), outcome(Tokenizer.load(folder))
    assert torch.equal(found["ids"], expected["ids"])
    torch.testing.assert_close(found["image"], expected["image"], **CLOSE)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_store_is_decoded_as_it_was(folder, tmp_path):
    shutil.copytree(folder / "store", tmp_path / "store")
    shutil.copytree(folder / "tokenizers/fsq", tmp_path / "fsq")
    done = run_command("decode", "tokenizer=fsq", "ids=store", "out=again", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (folder / "decoded").glob("*.png"))
    assert len(names) == 8
    for name in names:
        found, expected = (
            np.asarray(Image.open(path / name), int) for path in (tmp_path / "again", folder / "decoded")
        )
        assert abs(found - expected).max() <= 1


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_run_goes_on_to_the_weights_that_it_ended_with(folder, tmp_path):
    for name in ("run", "images"):
        shutil.copytree(folder / name, tmp_path / name)
    done = run_command("train", *RUN, "trainer.save_every=2", "out=run", "ckpt=last", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found, expected = (
        load_file(path) for path in (tmp_path / "run/tokenizer/model.safetensors", folder / "whole.safetensors")
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **CLOSE)
