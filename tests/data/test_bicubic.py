"""Bicubic scaling of a part is Pillow's, to the bit."""

import numpy as np
import pytest
import torch
from PIL import Image

from imtok.data.reading.bicubic import bicubic_part
from imtok.data.reading.transforms import TALL


def pillows(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("levels", [256, 2])  # two levels, black and white, leave the range of bytes before rounding
@pytest.mark.parametrize("seed", range(40))
def test_any_part_at_any_scale_is_pillows(seed: int, levels: int):
    random = np.random.default_rng(seed)
    width = int(random.integers(1, 200))
    height = int(random.integers(1, TALL * width + 1))
    factor = random.uniform(0.4, 2)
    shape = (max(1, round(height * factor)), max(1, round(width * factor)))
    pixels = (random.integers(0, levels, (height, width, 3)) * (255 // (levels - 1))).astype(np.uint8)
    top, left = (int(random.integers(0, side)) for side in shape)
    rows, columns = int(random.integers(1, shape[0] - top + 1)), int(random.integers(1, shape[1] - left + 1))
    part = bicubic_part(torch.from_numpy(pixels).permute(2, 0, 1), shape, (top, left), (rows, columns))
    expected = pillows(pixels, shape)[top : top + rows, left : left + columns]
    assert np.array_equal(part.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("factor", [7, 1, 1 / 7])
def test_large_factors_are_exact_too(factor: float):
    pixels = np.random.default_rng(0).integers(0, 2, (70, 84, 3), dtype=np.uint8) * 255
    shape = (round(70 * factor), round(84 * factor))
    whole = bicubic_part(torch.from_numpy(pixels).permute(2, 0, 1), shape, (0, 0), shape)
    assert np.array_equal(whole.permute(1, 2, 0).numpy(), pillows(pixels, shape))


def test_a_part_is_laid_out_channel_by_channel():
    image = torch.zeros(20, 30, 3, dtype=torch.uint8).permute(2, 0, 1)
    assert bicubic_part(image, (10, 15), (2, 3), (4, 5)).is_contiguous()
