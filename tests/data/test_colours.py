"""Other colours: drawn after the crop, for a share of the images, and never clipped."""

import numpy as np
import pytest
import torch

from imtok.data.reading.colours import RandomColours
from imtok.data.reading.transforms import CentreCrop, RandomScaleCrop
from imtok.data.sources.photos import Photos

IMAGE = torch.randint(30, 200, (3, 80, 100), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
CROP = RandomScaleCrop(32)


def squares(share: float, count: int = 400) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Of the same draws, crops and what becomes of them."""
    change = RandomColours(CROP, share)
    return (
        [CROP(IMAGE, np.random.default_rng(seed)) for seed in range(count)],
        [change(IMAGE, np.random.default_rng(seed)) for seed in range(count)],
    )


def test_without_a_share_crops_stay_what_they_are():
    assert all(map(torch.equal, *squares(0.0, 20)))


def test_the_crop_is_that_of_the_transform_in_other_colours():
    for crop, changed in zip(*squares(1.0, 20), strict=True):
        assert (changed.shape, changed.dtype) == (crop.shape, torch.uint8)
        # each channel of the one is, but for rounding, a rising line over some channel of the other
        likeness = torch.corrcoef(torch.cat([crop, changed]).flatten(1).float())[3:, :3]
        assert (likeness.amax(1) > 0.999).all()
        assert sorted(likeness.argmax(1).tolist()) == [0, 1, 2]


def test_both_changes_happen_to_their_share_of_the_images():
    pairs = list(zip(*squares(0.5), strict=True))
    orders, lights = 0, 0
    for crop, changed in pairs:
        orders += sorted(crop.sum((1, 2)).tolist()) == sorted(changed.sum((1, 2)).tolist())
        lights += torch.equal(crop, changed)
    assert abs(orders / len(pairs) - 0.5) < 0.08  # those in the same light
    assert abs(lights / len(pairs) - 0.5 * (0.5 + 0.5 / 6)) < 0.08  # and in the same order, as one of six orders is


def test_nothing_is_clipped():
    """A level that two pixels share afterwards was theirs before, or next to it."""
    ramp = torch.arange(256).to(torch.uint8).repeat(3, 256, 1)  # every level, in every row
    change = RandomColours(CentreCrop(256), 1.0)
    for seed in range(50):
        changed = change(ramp, np.random.default_rng(seed))[0, 0].int()
        assert (changed.diff() >= 0).all()
        assert changed.bincount().max() <= 4  # contrast exp(-1.2) and more: no heap at either end


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_plain_image_stays_plain(level: int):
    change = RandomColours(CentreCrop(8), 1.0)
    for seed in range(20):
        changed = change(torch.full((3, 9, 9), level, dtype=torch.uint8), np.random.default_rng(seed))
        assert (changed == changed[:, :1, :1]).all()


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(share: float):
    with pytest.raises(ValueError, match=r"colours must be a share of images in \[0, 1\]"):
        RandomColours(CROP, share)
    with pytest.raises(ValueError, match=r"colours must be a share"):
        Photos(colours=share)


def test_photographs_that_are_measured_keep_their_colours():
    plain, coloured = Photos(), Photos(colours=1.0)
    assert torch.equal(plain.validation(64)[0, 5].image, coloured.validation(64)[0, 5].image)
    assert not torch.equal(plain.train(64, 0)[0, 5].image, coloured.train(64, 0)[0, 5].image)
