"""AiT's recipes at tiny size on drawn masks and depth maps: what they keep after some seconds of training."""

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image, ImageDraw

from imtok.commands.train import build_run
from imtok.config import register_schemas
from imtok.data.order.loader import evaluation_loader
from imtok.data.told import with_channels
from imtok.folders import config_folder
from imtok.measures.depth import DepthError
from imtok.measures.masks import MaskIoU
from imtok.pixels import to_float, to_levels
from imtok.tokenizer import Tokenizer
from imtok.training.run import train

SIDE, PICTURES = 32, 200


def mask(draws: np.random.Generator) -> Image.Image:
    """An ellipse, or a polygon of three to six corners, white on black."""
    picture = Image.new("L", (SIDE, SIDE))
    pen = ImageDraw.Draw(picture)
    middle, radii = draws.uniform(10, 22, 2), draws.uniform(5, 13, 2)
    if draws.random() < 0.5:
        pen.ellipse([*(middle - radii), *(middle + radii)], fill=255)
    else:
        angles = np.sort(draws.uniform(0, 2 * np.pi, draws.integers(3, 7)))
        corners = middle + np.stack([np.cos(angles), np.sin(angles)], 1) * radii.max()
        pen.polygon([(x, y) for x, y in corners.tolist()], fill=255)
    return picture


def depth(draws: np.random.Generator) -> Image.Image:
    """A smooth ramp between two and ten metres, 16 bits being ten, with a hole of unknown depth at level 0."""
    down, across = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)
    angle = draws.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * (down - 0.5) + np.sin(angle) * (across - 0.5)
    metres = draws.uniform(4, 8) + draws.uniform(0.5, 2.5) * slope
    top, left = draws.integers(0, SIDE - 6, 2)
    metres[top : top + 6, left : left + 6] = 0
    return Image.fromarray((metres.clip(0, 10) / 10 * 65535).round().astype(np.uint16))


def trained(recipe, draw, folder):
    """A finished run on drawn pictures, and how good its tokenizer was before and is now, without anything hidden."""
    pictures, draws = folder / "pictures", np.random.default_rng(0)
    pictures.mkdir()
    for number in range(PICTURES):
        draw(draws).save(pictures / f"{number:03}.png")
    given = [f"experiment={recipe}", "size=tiny", "data=folder", f"data.path={pictures}", "data.val_fraction=0.2"]
    given += ["data.crop=centre", "trainer.batch_size=16", "trainer.accelerator=cpu", "trainer.threads=1"]
    given += ["trainer.max_steps=150", "trainer.pictures_every=0"]
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        run = build_run(compose("train", overrides=given), folder / "run")
    measure = MaskIoU if recipe == "ait_mask" else DepthError
    before = quality(run.tokenizer.eval(), run.data, measure())
    train(run)
    return before, quality(Tokenizer.load(folder / "run"), run.data, measure())


@torch.no_grad()
def quality(tokenizer, data, metric):
    for batch in evaluation_loader(with_channels(data.validation(SIDE), 1), 64, 0):
        made = tokenizer.decode(tokenizer.encode(to_float(batch.image)), SIDE)
        metric.update(to_levels(made), batch.image)
    return metric.compute().item()


def test_masks_of_drawn_shapes_come_back(tmp_path):
    before, after = trained("ait_mask", mask, tmp_path)
    assert after > 0.6 > 0.3 > before


@pytest.mark.slow  # as long as the one above
def test_depth_of_ramps_with_holes_comes_back(tmp_path):
    before, after = trained("ait_depth", depth, tmp_path)
    assert after < 0.15 < 0.2 < before
