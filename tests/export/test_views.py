"""The crops are those that LlamaGen's extraction makes, in its order and to the pixel."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import TenCrop
from torchvision.transforms.functional import hflip, pil_to_tensor

from imtok.data.reading.transforms import CentreCrop
from imtok.export.views import Views


def llamagen_square(picture, size):
    """Its ``center_crop_arr``, from the description in the ADM paper's appendix: box halvings, bicubic, centre."""
    while min(picture.size) >= 2 * size:
        picture = picture.resize(tuple(side // 2 for side in picture.size), resample=Image.Resampling.BOX)
    factor = size / min(picture.size)
    picture = picture.resize(tuple(round(side * factor) for side in picture.size), resample=Image.Resampling.BICUBIC)
    pixels = np.array(picture)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return Image.fromarray(pixels[top : top + size, left : left + size])


@pytest.mark.parametrize(("augment", "resize"), [("ten_crop", 1.1), ("ten_crop_105", 1.05)])
@pytest.mark.parametrize("size", [32, 37])
def test_ten_crops_are_those_of_torchvision(augment, resize, size):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 140, 3), np.uint8)
    views = Views(augment)
    square = CentreCrop(views.square(size))(torch.from_numpy(pixels).permute(2, 0, 1), np.random.default_rng(0))
    expected = TenCrop(size)(llamagen_square(Image.fromarray(pixels), int(size * resize)))
    assert torch.equal(views(square[None], size)[0], torch.stack([pil_to_tensor(crop) for crop in expected]))


@pytest.mark.parametrize("augment", ["flip", "ten_crop"])
def test_views_are_the_same_in_memory_that_held_others(augment):
    views = Views(augment)
    first, second = torch.randint(0, 256, (2, 3, 3, views.square(32), views.square(32)), dtype=torch.uint8)
    room = views(first, 32)
    expected, place = views(second, 32), room.data_ptr()
    again = views(second, 32, room)
    assert torch.equal(again, expected)
    assert again.data_ptr() == place


def test_flip_is_the_image_and_its_mirror_image_for_each_image_of_a_batch():
    image = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    views = Views("flip")(image, 8)
    assert torch.equal(views[:, 0], image)
    assert torch.equal(views[:, 1], hflip(image))


def test_squares_have_the_published_sizes():
    assert [Views(name).square(256) for name in ("centre", "flip", "ten_crop", "ten_crop_105")] == [256, 256, 281, 268]
    assert [len(Views(name)) for name in ("centre", "flip", "ten_crop", "ten_crop_105")] == [1, 2, 10, 10]


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match="augment must be one of centre, flip, ten_crop, ten_crop_105, got 'crop'"):
        Views("crop")
