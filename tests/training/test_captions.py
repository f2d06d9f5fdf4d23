"""A run whose codes are contrasted with captions: its data have to have some, its tokenizer is told none."""

import pytest
import torch
from safetensors.torch import load_file
from training.runs import losses_of, run_tiny, state_of, weights_of, write_images

from imtok.errors import InputError
from imtok.tokenizer import Tokenizer

CONTRAST = "+objective/alignment@objective.alignments.text="
TOWER = ("cut=words", "rows=64", "length=8", "width=16", "depth=1", "heads=2", "out_dim=8", "checkpoint=true")
TOWERS = {
    "captions_words": (),
    "captions_learned": (
        *(f"objective.alignments.text.text.{setting}" for setting in TOWER),
        "objective.alignments.text.head.out_dim=8",
    ),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Twelve images, ten of which have a caption beside them."""
    folder = write_images(tmp_path_factory.mktemp("images"), 12)
    for index, path in enumerate(sorted(folder.rglob("*.png"))[:10]):
        path.with_suffix(".txt").write_text(f"a {'red' if index % 2 else 'blue'} thing, number {index}")
    return folder


def words(images, *more, tower="captions_words"):
    contrast = (f"{CONTRAST}{tower}", *TOWERS[tower])
    return ("data=folder", f"data.path={images}", "data.val_fraction=0.25", *contrast, "trainer.max_steps=6", *more)


@pytest.fixture(scope="module", params=TOWERS)
def tower(request):
    return request.param


@pytest.fixture(scope="module")
def straight(images, tower, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight") / "run"
    run_tiny(folder, *words(images, tower=tower))
    return folder


def test_its_text_tower_learns_beside_the_tokenizer_which_is_told_nothing(straight):
    assert "text" in losses_of(straight)[0].split(",")
    tokenizer = Tokenizer.load(straight)
    assert tokenizer.condition is None
    assert not [name for name in load_file(straight / "tokenizer/model.safetensors") if "text" in name]
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    assert tokenizer.encode(image).ids.shape == (2, 4, 1)


def test_a_run_that_went_on_holds_the_same_bits_text_tower_and_temperature_included(images, tower, straight, tmp_path):
    run_tiny(tmp_path / "run", *words(images, "trainer.stop_at=3", tower=tower))
    run_tiny(tmp_path / "run", *words(images, "ckpt=last", tower=tower))
    assert state_of(tmp_path / "run", 6) == state_of(straight, 6)
    assert weights_of(tmp_path / "run") == weights_of(straight)


def test_the_captions_change_what_is_learnt(images, tower, straight, tmp_path):
    run_tiny(tmp_path / "run", *words(images, "objective.alignments.text.weight=0.0", tower=tower))
    assert weights_of(tmp_path / "run") != weights_of(straight)


def test_images_without_captions_are_refused_in_one_line_before_anything_is_written(tmp_path):
    folder = write_images(tmp_path / "images", 6)
    message = r"the images to train on have no caption, which an alignment reads \(none of \d+ .*\); give data that has"
    with pytest.raises(InputError, match=message) as caught:
        run_tiny(tmp_path / "run", *words(folder))
    assert "or leave it out by ~objective.alignments.NAME" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
