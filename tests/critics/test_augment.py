"""Augmentation changes what it says, for each image anew, and lets gradients pass."""

import pytest
import torch
from jaxtyping import TypeCheckError

from imtok.critics.augment import DiffAugment


def batch(number=64, side=16):
    return torch.rand(number, 3, side, side, dtype=torch.float64) * 2 - 1


def test_translation_moves_every_image_by_up_to_an_eighth():
    image = batch()
    moved = DiffAugment(["translation"], translation=0.125)(image, 0)
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
    cut = DiffAugment(["cutout"], cutout=0.5)(image, 0)
    holes = (cut == 0).all(1)
    assert torch.equal(cut[:, 0][~holes], image[:, 0][~holes])
    sides = [(hole.any(0).sum().item(), hole.any(1).sum().item(), hole.sum().item()) for hole in holes]
    assert all(width * height == count and width <= 8 and height <= 8 for width, height, count in sides)
    assert (8, 8, 64) in sides
    assert any(width < 8 for width, *_ in sides)  # partly outside
    assert 0.6 < holes.double().mean(0)[8, 8] / 0.25 < 1.6


def test_color_moves_level_saturation_and_contrast():
    image = batch(2000, 2)
    changed = DiffAugment(["color"])(image, 0)
    grey = torch.full((2000, 3, 2, 2), 0.2, dtype=torch.float64)
    levels = DiffAugment(["color"])(grey, 0).mean((1, 2, 3)) - 0.2  # without contrast only brightness is left
    assert levels.min() < -0.45
    assert levels.max() > 0.45
    assert levels.mean().abs() < 0.03
    assert changed.std((2, 3)).min() < image.std((2, 3)).max()


def test_changes_are_made_in_the_order_of_the_list():
    """What a shift leaves behind is 0 until colours are changed."""
    image = torch.ones(200, 3, 8, 8, dtype=torch.float64)
    last, first = (DiffAugment(changes)(image, 0) for changes in (["color", "translation"], ["translation", "color"]))
    assert (last == 0).any()
    assert not (first == 0).any()


def test_the_blur_halves_its_weights_at_a_distance_that_falls_to_zero():
    side, steps = 32, 8
    augment, image = DiffAugment([], blur_steps=steps), torch.zeros(1, 1, side, side, dtype=torch.float64)
    image[..., 16, 16] = 1
    for step in (0, 3, 7):
        half = (1 - step / steps) * (side / 2) ** 0.5
        reach = int(3 * half)
        weights = {place: 2 ** -((place / half) ** 2) for place in range(-reach, reach + 1)}
        expected = torch.zeros(side, dtype=torch.float64)
        for place, weight in weights.items():
            expected[16 + place] = weight / sum(weights.values())
        torch.testing.assert_close(augment(image, step)[0, 0], torch.outer(expected, expected))
    for step in (8, 9, 1000):
        assert augment(image, step) is image
    flat = torch.full((2, 3, 16, 24), 0.3, dtype=torch.float64)
    torch.testing.assert_close(augment(flat, 0), flat)  # mirrored edges keep the level


def test_gradients_pass_to_the_image():
    torch.manual_seed(3)
    image = batch(2, 8).requires_grad_()
    augment = DiffAugment(blur_steps=2)

    def same(image):
        torch.manual_seed(3)
        return augment(image, 0)

    assert torch.autograd.gradcheck(same, image)


def test_the_same_seed_is_the_same_change():
    image = batch(4)
    torch.manual_seed(1)
    first = DiffAugment()(image, 0)
    torch.manual_seed(1)
    torch.testing.assert_close(DiffAugment()(image, 0), first, rtol=0, atol=0)


@pytest.mark.parametrize(
    "settings", [{"changes": ["flip"]}, {"cutout": 2.0}, {"translation": -0.1}, {"blur_steps": -1}]
)
def test_what_cannot_be_is_refused(settings):
    with pytest.raises((ValueError, TypeCheckError)):
        DiffAugment(**settings)
