"""What ``python train.py`` makes of photographs that it has never seen: right colours, and no lattice of patches."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from jaxtyping import Float
from torch import Tensor

from imtok.commands.train import build_run
from imtok.config import register_schemas
from imtok.data.sources.photos import Photos
from imtok.folders import config_folder
from imtok.pixels import to_float, to_uint8
from imtok.tokenizer import Tokenizer
from imtok.training.run import train

PATCH = 8
Levels = Float[Tensor, "b 3 h w"]


@pytest.mark.slow
def test_the_default_run_gets_colours_right_and_hides_its_patches(tmp_path):
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=[f"out={tmp_path}/run"])
    train(build_run(config, tmp_path / "run"))
    tokenizer = Tokenizer.load(tmp_path / "run")
    assert tokenizer.num_tokens((64, 64)) * tokenizer.quantizer.bits_per_token <= 9 * 64

    held_out = Photos().validation(64)
    originals = torch.stack([held_out[0, index].image for index in range(len(held_out))])
    with torch.no_grad():
        batches = [tokenizer.decode(tokenizer.encode(batch), (64, 64)) for batch in to_float(originals).split(37)]
    before, after = originals.float(), to_uint8(torch.cat(batches)).float()
    psnr = 10 * torch.log10(255**2 / (before - after).square().mean((1, 2, 3)))
    colours = (before.mean((2, 3)) - after.mean((2, 3))).abs()
    assert len(before) == 148
    assert psnr.mean() > 26
    assert colours.mean() < 10
    assert colours.max() < 25
    assert lattice(after) < 1.1


def lattice(images: Levels) -> float:
    """Energy of the differences of neighbours across the borders of patches, relative to that inside patches."""
    across, inside = [], []
    for image in (images, images.transpose(2, 3)):
        energy = image.diff(dim=-1).square().mean((0, 1, 2))
        border = torch.arange(1, len(energy) + 1) % PATCH == 0
        across.append(energy[border].mean())
        inside.append(energy[~border].mean())
    return (sum(across) / sum(inside)).item()


def test_a_lattice_is_seen():
    """The measure: near 1 for noise, and far from it for squares of one colour."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(8, 3, 64, 64, generator=generator)
    squares = torch.rand(8, 3, 8, 8, generator=generator).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    assert abs(lattice(noise) - 1) < 0.05
    assert lattice(squares + 0.01 * noise) > 100
