"""Measures of masks and of depth, against their formulas."""

import numpy as np
import torch

from imtok.measures.base import ImageMeasure
from imtok.measures.depth import DepthError
from imtok.measures.masks import MaskIoU


def value(metric, made, true):
    metric.update(made, true)
    return metric.compute().item()


def test_iou_is_that_of_the_two_sets_of_pixels():
    draws = np.random.default_rng(0)
    made, true = (torch.from_numpy(draws.integers(0, 256, (5, 1, 9, 7)).astype(np.float32)) for _ in range(2))
    expected = []
    for one, other in zip(made.numpy(), true.numpy(), strict=True):
        first, second = set(np.flatnonzero(one >= 128)), set(np.flatnonzero(other >= 128))
        expected.append(len(first & second) / len(first | second))
    assert abs(value(MaskIoU(), made, true) - np.mean(expected)) < 1e-9


def test_empty_masks_agree_and_an_empty_one_shares_nothing_with_a_full_one():
    empty, full = torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)
    assert value(MaskIoU(), empty, empty) == 1
    assert value(MaskIoU(), empty, full) == 0
    assert value(MaskIoU(), torch.cat([empty, full], 1), torch.cat([full, full], 1)) == 0.5


def test_depth_counts_known_pixels_alone_and_does_not_depend_on_the_unit():
    draws = torch.Generator().manual_seed(0)
    true = torch.rand(3, 1, 8, 8, generator=draws) * 200
    true[:, :, :3] = 0
    made = true * 1.25 + 40 * (true == 0)
    assert abs(value(DepthError(), made, true) - 0.25) < 1e-6
    assert abs(value(DepthError(), made / 7, true / 7) - 0.25) < 1e-6


def test_images_without_known_depth_do_not_count_and_without_any_other_there_is_no_number():
    true = torch.tensor([10.0, 0.0, 20.0]).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    made = torch.tensor([11.0, 9.0, 26.0]).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    assert abs(value(DepthError(), made, true) - 0.2) < 1e-6
    measure = ImageMeasure(DepthError())
    measure.metric.update(made[1:2], true[1:2])
    assert measure.finish().absent == {"depth_error": "no image has a pixel of known depth, whose level is above 0"}
