"""A score of each image from a column of the data, by which CAT's encoder chooses the number of tokens."""

import numpy as np
import pytest
import torch
from PIL import Image
from training.launch import run_command

from imtok.conditions.score import Score
from imtok.errors import InputError

LABELS = torch.tensor([-1, -1, -1])


def test_a_score_is_the_number_that_stands_for_the_image_and_nothing_is_none():
    quality = Score()([" 3.5 ", "-2", ""], LABELS).quality
    assert quality[:2].tolist() == [3.5, -2.0]
    assert quality[2].isnan()


@pytest.mark.parametrize("wrong", ["a fox", "nan", "inf", "3,5"])
def test_what_is_no_number_is_refused_with_the_column_to_name(wrong):
    with pytest.raises(InputError, match=r"a number for each image, got .* data.caption=score"):
        Score()([wrong], LABELS[:1])


def test_a_column_of_scores_decides_how_many_tokens_images_get(tmp_path):
    (tmp_path / "images").mkdir()
    lines = ["file_name,complexity"]
    for number, score in enumerate((8.5, 5.0, 1.0)):
        Image.fromarray(np.full((32, 32, 3), 40 * number, np.uint8)).save(tmp_path / f"images/{number}.png")
        lines.append(f"{number}.png,{score}")
    (tmp_path / "images/metadata.csv").write_text("\n".join(lines) + "\n")
    data = ["data=folder", "data.path=images", "data.val_fraction=0.34", "data.caption=complexity"]
    words = ["experiment=cat", "size=tiny", "condition=score", "trainer.max_steps=1", "trainer.accelerator=cpu"]
    words += ["trainer.pictures_every=0", "trainer.batch_size=2", "objective=reconstruction", "out=run"]
    for command in (
        ["train", *data, *words],
        ["export", "run", *data, "split=all", "out=tokens"],
    ):
        done = run_command(*command, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    (keep,) = (np.load(path) for path in (tmp_path / "tokens").glob("keep-*.npy"))
    assert keep.sum(-1).tolist() == [256, 64, 16]
