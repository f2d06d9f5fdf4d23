"""What augmentations do to the tokens of a batch."""

import pytest
import torch
from torch.nn import functional as F

from imtok.classifiers.cutmix import CutMix, boxes
from imtok.classifiers.embedded import Embedded, grid_of
from imtok.classifiers.hiding import Drop, Mask
from imtok.classifiers.noise import Noise, Recolour, moments
from imtok.construct import construct
from imtok.options import option

COUNT = 512


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def images(seen=None, grid=(4, 4)):
    vectors = torch.randn(COUNT, 16, 3) * 2 + 1
    seen = torch.ones(COUNT, 16, dtype=torch.bool) if seen is None else seen
    return Embedded(vectors, seen, F.one_hot(torch.arange(COUNT) % 5, 5).float(), grid)


def source(found, given):
    """Of which image each token is, told by its first channel."""
    return (found.vectors[..., 0][:, :, None] == given.vectors[..., 0].T[None]).int().argmax(-1)


@pytest.mark.parametrize("grid", [(4, 4), (1, 16)])
def test_cutmix_takes_a_box_of_one_other_image_and_mixes_the_classes_by_its_share(grid):
    given = images(grid=grid)
    found = CutMix(1.0, 1.0)(given)
    origin, own = source(found, given), torch.arange(COUNT)
    assert torch.equal(found.vectors, given.vectors[origin, torch.arange(16)])
    mixed = (origin != own[:, None]).view(COUNT, *grid)
    for box, image in zip(mixed, origin, strict=True):
        at = box.nonzero()
        if len(at):
            (top, left), (bottom, right) = at.min(0).values, at.max(0).values
            assert box[top : bottom + 1, left : right + 1].all()
            assert len(set(image[box.flatten()].tolist())) == 1
    classes = torch.stack([given.targets[row].mean(0) for row in origin])
    torch.testing.assert_close(found.targets, classes)
    assert 0.4 < mixed.float().mean() < 0.6


def test_a_box_has_the_share_that_is_asked_for_in_whole_tokens():
    for share, tokens in ((0.0, 0), (0.25, 4), (0.5, 9), (1.0, 16)):
        assert boxes(torch.full((9,), share), (4, 4)).sum(1).tolist() == [tokens] * 9
    assert boxes(torch.full((9,), 0.5), (1, 16)).sum(1).tolist() == [8] * 9
    places = boxes(torch.full((COUNT,), 0.25), (4, 4)).float().mean(0)
    assert places.min() > 0.05  # every token is inside of some


def test_classes_are_mixed_by_tokens_that_are_seen_alone():
    seen = torch.ones(COUNT, 16, dtype=torch.bool)
    seen[COUNT // 2 :, 1:] = False
    given = images(seen, grid=(1, 16))
    found = CutMix(1.0, 1.0)(given)
    origin = source(found, given)
    expected = torch.stack([given.targets[row][there].mean(0) for row, there in zip(origin, found.seen, strict=True)])
    whole = found.seen.any(1)
    torch.testing.assert_close(found.targets[whole], expected[whole])
    torch.testing.assert_close(found.targets.sum(1), torch.ones(COUNT))


def test_dropped_tokens_are_unseen_and_masked_ones_are_the_mean():
    given = images()
    dropped, masked = Drop(0.25)(given), Mask(0.25)(given)
    assert dropped.vectors is given.vectors
    assert abs(dropped.seen.float().mean() - 0.75) < 0.02
    zero = (masked.vectors == 0).all(-1)
    assert torch.equal(masked.vectors[~zero], given.vectors[~zero])
    assert abs(zero.float().mean() - 0.25) < 0.02
    assert masked.seen.all()


def test_recoloured_images_have_another_one_s_moments_and_their_own_pattern():
    given = images()
    found = Recolour(1.0)(given)
    (mean, deviation), (others, _) = moments(given), moments(found)
    nearest = (others - mean[:, 0]).abs().amax(-1).min(1)
    assert nearest.values.max() < 1e-4
    assert sorted(nearest.indices.tolist()) == list(range(COUNT))
    pattern = (given.vectors - mean) / deviation
    again = (found.vectors - others) / moments(found)[1]
    torch.testing.assert_close(again, pattern, rtol=1e-3, atol=1e-4)
    assert torch.equal(Recolour(0.0)(given).vectors, given.vectors)


def test_noise_has_its_deviation_and_spares_what_is_not_there():
    seen = torch.arange(16).expand(COUNT, -1) < 8
    given = images(seen)
    change = Noise(0.3)(given).vectors - given.vectors
    assert abs(change[seen].std() - 0.3) < 0.01
    assert not change[~seen].any()


def test_all_of_seit_is_a_function_of_torch_s_generator_and_spares_what_it_is_given():
    given = images()
    before = given.vectors.clone()
    every = construct(option("augmentation", "seit"))
    found = list[Embedded]()
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(every(given))
    assert torch.equal(found[0].vectors, found[1].vectors)
    assert torch.equal(found[0].seen, found[1].seen)
    assert not torch.equal(found[0].vectors, found[2].vectors)
    assert torch.equal(given.vectors, before)
    assert given.seen.all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Drop(1.0),
        lambda: Mask(-0.1),
        lambda: CutMix(1.1, 1.0),
        lambda: CutMix(0.5, 0.0),
        lambda: Noise(-1.0),
        lambda: Recolour(2.0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="must"):
        make()


def test_a_grid_has_the_shape_of_the_image_or_is_one_row():
    assert grid_of(256, (256, 256)) == (16, 16)
    assert grid_of(24, (64, 96)) == (4, 6)
    assert grid_of(32, (256, 256)) == (1, 32)
