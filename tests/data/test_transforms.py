"""Crops: ADM's to the pixel, scales in their range, images of any shape."""

import numpy as np
import pytest
import torch
from PIL import Image

from imtok.data.reading.transforms import CentreCrop, RandomScaleCrop, RandomScaledCrop

SHAPES = [(256, 256), (300, 451), (427, 640), (513, 512), (64, 65), (20, 31), (129, 1000), (1000, 97), (1, 1), (2, 31)]


def reference(image: torch.Tensor, size: int) -> torch.Tensor:
    """ADM's crop as its paper's data loader defines it, written with Pillow and nothing of ours."""
    pil = Image.fromarray(image.permute(1, 2, 0).numpy())
    while min(*pil.size) >= 2 * size:
        pil = pil.resize(tuple(x // 2 for x in pil.size), resample=Image.Resampling.BOX)
    scale = size / min(*pil.size)
    pil = pil.resize(tuple(round(x * scale) for x in pil.size), resample=Image.Resampling.BICUBIC)
    pixels = np.array(pil)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return torch.from_numpy(pixels[top : top + size, left : left + size]).permute(2, 0, 1)


def noise(shape: tuple[int, int]) -> torch.Tensor:
    return torch.randint(0, 256, (3, *shape), dtype=torch.uint8)


@pytest.mark.parametrize("size", [16, 64, 100, 256])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_centre_crop_is_adms_to_the_pixel(shape: tuple[int, int], size: int):
    image = noise(shape)
    assert torch.equal(CentreCrop(size)(image, np.random.default_rng(0)), reference(image, size))


@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1), (1, 1), (1, 2000), (3, 5)])
@pytest.mark.parametrize("crop", [CentreCrop(256), RandomScaleCrop(256)])
def test_images_of_any_shape_become_squares(shape: tuple[int, int], crop: CentreCrop | RandomScaleCrop):
    image = torch.full((3, *shape), 77, dtype=torch.uint8)
    square = crop(image, np.random.default_rng(0))
    assert square.shape == (3, 256, 256)
    assert square.dtype == torch.uint8
    assert (square == 77).all()


def test_a_crop_at_native_scale_shows_the_pixels_themselves():
    image = noise((80, 100))
    square = RandomScaleCrop(32, scale=(0.4, 0.4), flip=False)(image, np.random.default_rng(0))
    windows = image.unfold(1, 32, 1).unfold(2, 32, 1)  # 0.4 of 80 is 32
    assert (windows == square[:, None, None]).all(dim=(0, 3, 4)).sum() == 1


def test_scales_are_log_uniform_between_native_and_the_short_side(monkeypatch: pytest.MonkeyPatch):
    sides: list[int] = []

    def remember(crop: torch.Tensor, size: tuple[int, int], **_: object) -> torch.Tensor:
        sides.append(crop.shape[-1])
        return torch.zeros(1, 3, *size, dtype=torch.uint8)

    monkeypatch.setattr("imtok.data.reading.transforms.interpolate", remember)
    crop, random = RandomScaleCrop(64, scale=(0.0, 1.0)), np.random.default_rng(0)
    image = torch.zeros(3, 1024, 1100, dtype=torch.uint8)
    for _ in range(4000):
        crop(image, random)
    octaves = np.log2(np.array(sides) / 64)
    assert octaves.min() >= 0
    assert octaves.max() <= 4
    assert np.abs(np.quantile(octaves, [0.25, 0.5, 0.75]) - [1, 2, 3]).max() < 0.15


def test_nothing_is_enlarged_unless_the_image_is_too_small():
    ramp = torch.arange(70, dtype=torch.uint8).expand(3, 70, 70)
    for seed in range(50):
        square = RandomScaleCrop(64, scale=(0.1, 1.0), flip=False)(ramp, np.random.default_rng(seed))
        assert int(square[0, 0, -1]) - int(square[0, 0, 0]) >= 63 - 1


def test_half_of_the_crops_are_mirrored():
    ramp = torch.arange(64, dtype=torch.uint8).expand(3, 64, 64)
    mirrored = [bool(RandomScaleCrop(64)(ramp, np.random.default_rng(s))[0, 0, 0] == 63) for s in range(400)]
    assert 160 < sum(mirrored) < 240


@pytest.mark.parametrize("scale", [(0.0, 0.0), (0.9, 0.8), (-0.1, 1.0), (0.5, 1.1), (0.5,), (0.0, float("nan"))])
def test_scales_that_make_no_range_are_refused(scale: tuple[float, ...]):
    with pytest.raises(ValueError, match="scale must be"):
        RandomScaleCrop(64, scale)


def scaled_reference(image: torch.Tensor, size: int, short: int, top: float, left: float) -> torch.Tensor:
    """ADM's random crop for draws that are known, written with Pillow and nothing of ours."""
    pil = Image.fromarray(image.permute(1, 2, 0).numpy())
    while min(*pil.size) >= 2 * short:
        pil = pil.resize(tuple(x // 2 for x in pil.size), resample=Image.Resampling.BOX)
    scale = short / min(*pil.size)
    pixels = np.array(pil.resize(tuple(round(x * scale) for x in pil.size), resample=Image.Resampling.BICUBIC))
    y, x = int(top * (pixels.shape[0] - size + 1)), int(left * (pixels.shape[1] - size + 1))
    return torch.from_numpy(pixels[y : y + size, x : x + size]).permute(2, 0, 1)


@pytest.mark.parametrize("shape", [(300, 451), (427, 640), (64, 65), (20, 31), (129, 1000)])
@pytest.mark.parametrize("size", [16, 64, 192])
def test_the_adm_crop_is_adms_to_the_pixel_for_the_same_draws(shape: tuple[int, int], size: int):
    image = noise(shape)
    shorts = set()
    for seed in range(12):
        zoom, top, left, mirror = np.random.default_rng(seed).random(4)
        least, most = -(-size // 1), -(-size * 10 // 8)
        short = least + int(zoom * (most - least + 1))
        shorts.add(short)
        expected = scaled_reference(image, size, short, top, left)
        crop = RandomScaledCrop(size, (0.8, 1.0))(image, np.random.default_rng(seed))
        assert torch.equal(crop, expected.flip(-1) if mirror < 0.5 else expected)
    assert len(shorts) > 3


def test_the_adm_crop_shows_every_scale_equally_often(monkeypatch: pytest.MonkeyPatch):
    shorts: list[int] = []

    def remember(image: torch.Tensor, shape: tuple[int, int], *_: object) -> torch.Tensor:
        shorts.append(shape[0])
        return torch.zeros(3, 8, 8, dtype=torch.uint8)

    monkeypatch.setattr("imtok.data.reading.transforms.scale_to_cover", remember)
    crop, random = RandomScaledCrop(8, (0.8, 1.0)), np.random.default_rng(0)
    for _ in range(3000):
        crop(noise((9, 9)), random)
    assert set(shorts) == {8, 9, 10}
    assert all(abs(shorts.count(short) - 1000) < 100 for short in (8, 9, 10))


def test_a_crop_says_what_detail_it_never_shows():
    assert RandomScaleCrop(256, (0.8, 1.0)).least == 320
    assert RandomScaleCrop(256, (0.0, 1.0)).least is None
    assert RandomScaledCrop(256, (0.8, 1.0)).least == 320
    assert CentreCrop(256).least is None
