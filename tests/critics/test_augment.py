"""Augmentation changes what it says, for each image anew, and lets gradients pass."""

import pytest
import torch
from jaxtyping import TypeCheckError

from imtok.critics.augment import DiffAugment


def batch(number=64, side=16):
    return torch.rand(number, 3, side, side, dtype=torch.float64) * 2 - 1


def test_translation_moves_every_image_by_up_to_an_eighth():
    image = batch()
    moved = DiffAugment(["translation"], translation=0.125)(image)
    shifts = []
    for before, after in zip(image, moved, strict=True):
        padded = torch.nn.functional.pad(before, (2, 2, 2, 2))
        found = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(padded[:, top : top + 16, left : left + 16], after)
        ]
        assert len(found) == 1
        shifts += found
    assert {top for top, _ in shifts} == {left for _, left in shifts} == set(range(5))


def test_cutout_leaves_a_square_hole_and_the_rest():
    image = batch(256)
    cut = DiffAugment(["cutout"], cutout=0.5)(image)
    holes = (cut == 0).all(1)
    assert torch.equal(cut[:, 0][~holes], image[:, 0][~holes])
    sides = [(hole.any(0).sum().item(), hole.any(1).sum().item(), hole.sum().item()) for hole in holes]
    assert all(width * height == count and width <= 8 and height <= 8 for width, height, count in sides)
    assert (8, 8, 64) in sides
    assert any(width < 8 for width, *_ in sides)  # partly outside
    assert 0.6 < holes.double().mean(0)[8, 8] / 0.25 < 1.6


def test_color_moves_level_saturation_and_contrast():
    image = batch(2000, 2)
    changed = DiffAugment(["color"])(image)
    grey = torch.full((2000, 3, 2, 2), 0.2, dtype=torch.float64)
    levels = DiffAugment(["color"])(grey).mean((1, 2, 3)) - 0.2  # without contrast only brightness is left
    assert levels.min() < -0.45
    assert levels.max() > 0.45
    assert levels.mean().abs() < 0.03
    assert changed.std((2, 3)).min() < image.std((2, 3)).max()


def test_gradients_pass_to_the_image():
    torch.manual_seed(3)
    image = batch(2, 8).requires_grad_()
    augment = DiffAugment()

    def same(image):
        torch.manual_seed(3)
        return augment(image)

    assert torch.autograd.gradcheck(same, image)


def test_the_same_seed_is_the_same_change():
    image = batch(4)
    torch.manual_seed(1)
    first = DiffAugment()(image)
    torch.manual_seed(1)
    torch.testing.assert_close(DiffAugment()(image), first, rtol=0, atol=0)


@pytest.mark.parametrize("settings", [{"changes": ["flip"]}, {"cutout": 2.0}, {"translation": -0.1}])
def test_what_cannot_be_is_refused(settings):
    with pytest.raises((ValueError, TypeCheckError)):
        DiffAugment(**settings)
