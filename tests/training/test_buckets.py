"""Runs on images of several shapes: resumed bit for bit, the same shapes on all ranks, refused where nets cannot."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ranks import assert_same_run, run_ranks
from training.launch import launch_train
from training.runs import run_tiny, state_of, tiny_run, weights_of

from imtok.data.sources.photos import photograph
from imtok.errors import InputError
from imtok.training.run import train
from imtok.training.task import TokenizerTask

BUCKETS = "data.buckets=[[16,24],[24,16],[16,16]]"


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Cuts of a photograph: 7 wide, 6 high and 5 square ones to train on, and what is held out."""
    root = tmp_path_factory.mktemp("buckets")
    pixels = photograph("chelsea").permute(1, 2, 0).numpy()
    sizes = [(40, 60)] * 7 + [(70, 40)] * 6 + [(50, 48)] * 5
    for folder, some in (("images", sizes), ("held", sizes[::6])):
        (root / folder).mkdir()
        for index, (height, width) in enumerate(some):
            cut = pixels[10 * index + len(some) : 10 * index + len(some) + height, 15 * index : 15 * index + width]
            Image.fromarray(np.ascontiguousarray(cut)).save(root / folder / f"{index:02d}.png")
    return ["data=folder", f"data.path={root / 'images'}", f"data.val_path={root / 'held'}", BUCKETS]


@pytest.fixture
def shapes(monkeypatch):
    """The shapes of the images that were trained on, and their names, step by step."""
    seen = []
    original = TokenizerTask.training_step

    def noted(task, batch, batch_idx):
        seen.append((tuple(batch.image.shape[-2:]), list(batch.key)))
        original(task, batch, batch_idx)

    monkeypatch.setattr(TokenizerTask, "training_step", noted)
    return seen


def test_a_run_learns_from_images_of_several_shapes_and_resumes_bit_for_bit(given, tmp_path, shapes, caplog):
    caplog.set_level("INFO", "imtok")
    run_tiny(tmp_path / "straight", *given)
    assert {shape for shape, _ in shapes} == {(16, 24), (24, 16), (16, 16)}
    first = [key for _, keys in shapes[:9] for key in keys]  # 36 samples are two epochs of 18
    assert set(first) == {f"{index:02d}.png" for index in range(18)}
    assert "16 x 24 (7 images, 6 tokens), 24 x 16 (6 images, 6 tokens), 16 x 16 (5 images, 4 tokens)" in caplog.text
    straight = list(shapes)
    for stop in (1, 6):
        shapes.clear()
        folder = tmp_path / str(stop)
        run_tiny(folder, *given, f"trainer.stop_at={stop}", "trainer.workers=2" if stop == 6 else "trainer.workers=0")
        run_tiny(folder, *given, "ckpt=last")
        assert shapes == straight
        assert state_of(folder) == state_of(tmp_path / "straight")
        assert weights_of(folder) == weights_of(tmp_path / "straight")
    assert json.loads((tmp_path / "straight/summary.json").read_text())["steps"] == 14


def test_other_buckets_are_another_run(given, tmp_path):
    run_tiny(tmp_path / "run", *given, "trainer.stop_at=2")
    with pytest.raises(InputError, match=r"data.buckets: [\s\S]*allow_change=\[data.buckets"):
        run_tiny(tmp_path / "run", *given[:-1], "data.buckets=[[16,24],[24,16]]", "ckpt=last")
    path = Path(given[1].partition("=")[2]) / "03.png"
    before = path.read_bytes()
    Image.open(path).resize((40, 60)).save(path, compress_level=0)
    path.write_bytes(path.read_bytes()[: len(before)].ljust(len(before), b"\0"))
    try:
        with pytest.raises(InputError, match="the training images are not those of the run so far"):
            run_tiny(tmp_path / "run", *given, "ckpt=last")
    finally:
        path.write_bytes(before)


def test_a_number_of_shapes_and_further_batches_again_and_again(given, tmp_path, shapes):
    run_tiny(
        *(tmp_path / "run", *given[:-1], "data.buckets=3", "trainer.accumulate=2", "trainer.max_steps=6"),
        "+trainer.lightning.overfit_batches=2",
    )
    assert {shape for shape, _ in shapes} <= {(24, 8), (16, 16), (8, 24)}
    assert shapes[:4] == shapes[4:8] == shapes[8:]


@pytest.mark.slow
def test_two_ranks_train_like_one_process(given, tmp_path):
    runs = {"run": [*given, "trainer.max_steps=6"]}
    for world, name in ((1, "one"), (2, "two")):
        (tmp_path / name).mkdir()
        run_ranks(world, "training.ranks:train_many", [str(tmp_path / name), runs], tmp_path / f"log{world}")
    assert_same_run(tmp_path / "one/run", tmp_path / "two/run", step=6)


@pytest.mark.slow
def test_a_run_that_is_killed_in_the_middle_ends_bit_for_bit_as_uninterrupted(given, tmp_path):
    given = [*given, "trainer.save_every=3"]
    assert launch_train(tmp_path / "straight", *given).wait(300) == 0
    killed = launch_train(tmp_path / "run", *given, fault="training.faults:plant:step,9,kill")
    assert killed.wait(300) == -signal.SIGKILL, killed.output
    again = launch_train(tmp_path / "run", *given, "ckpt=last")
    assert again.wait(300) == 0, again.output
    assert "step 6" in again.output
    assert state_of(tmp_path / "run") == state_of(tmp_path / "straight")
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "straight")


VIT = ("encoder=vit", "encoder.width=16", "encoder.depth=1", "encoder.heads=2", "encoder.patch_size=8")
DECODER = ("decoder=vit", "decoder.width=16", "decoder.depth=1", "decoder.heads=2", "decoder.patch_size=8")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["data.buckets=[[16,20]]"], r"^data.buckets: the tokenizer cannot read images of 16 x 20 pixels .*multiple"),
        (["data.buckets=[[16,24],[32,48]]"], r"^data.buckets must have each shape once.* 16 x 24 and 32 x 48; leave"),
        (["data.buckets=[16,24]"], r"^data.buckets must be a number of shapes, or a list .* got \[16, 24\]"),
        (["data.buckets=0"], r"^data.buckets must be a number of shapes.* got 0"),
        ([*VIT, *DECODER], r"^data.buckets: the tokenizer cannot read .* set positions=interpolated"),
        (
            [*VIT, *DECODER, "encoder.positions=interpolated"],
            r"decoder \(ViTDecoder\): image size must be 16 x 16.*data.buckets has 16 x 24 pixels$",
        ),
        (["quantizer=var_msvq"], r"the tokenizer cannot"),
    ],
)
@pytest.mark.usefixtures("rehearsed")
def test_what_cannot_have_other_shapes_is_refused_before_there_is_a_folder(given, tmp_path, overrides, line):
    with pytest.raises(InputError, match=line) as caught:
        train(tiny_run(tmp_path / "run", *given, *overrides))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_transformer_with_interpolated_positions_learns_from_all_shapes(given, tmp_path, shapes):
    positions = ("encoder.positions=interpolated", "decoder.positions=interpolated")
    outcome = run_tiny(tmp_path / "run", *given, *VIT, *DECODER, *positions, "trainer.max_steps=5")
    assert outcome.step == 5
    assert len({shape for shape, _ in shapes}) == 3
