"""The stand-in's distance rises with every damage, on the bundled photographs."""

import io

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import gaussian_blur, pil_to_tensor, to_pil_image

from imtok.extractors.efflite0 import EffLite0
from imtok.measures.frechet import FeatureStatistics, FrechetDistance


def blur(images, sigma):
    return gaussian_blur(images, [25, 25], [sigma, sigma])


def noise(images, sigma):
    grain = sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + grain).round().clamp(0, 255).to(torch.uint8)


def jpeg(images, quality):
    def one(image):
        file = io.BytesIO()
        to_pil_image(image).save(file, "JPEG", quality=quality)
        return pil_to_tensor(Image.open(file))

    return torch.stack([one(image) for image in images])


@pytest.fixture(scope="module")
def measured(crops):
    """A function that gives the distance of damaged crops to the whole ones."""
    extractor, images = EffLite0(), crops(12, 128)
    originals = FeatureStatistics(extractor.dim)
    originals.update(extractor(images).features)

    def distance(damaged):
        metric = FrechetDistance(extractor.dim, originals)
        metric.update(extractor(damaged).features)
        return metric.compute().item()

    return images, distance


@pytest.mark.filterwarnings("ignore:a Fréchet distance over")
@pytest.mark.parametrize(
    ("damage", "levels"),
    [(blur, (1, 2)), (noise, (4, 32)), (jpeg, (75, 10))],
    ids=["blur", "noise", "jpeg"],
)
def test_it_rises_with_damage(measured, damage, levels):
    images, distance = measured
    values = [distance(damage(images, level)) for level in levels]
    assert values[0] > 1
    assert values[1] > 1.5 * values[0]


@pytest.mark.filterwarnings("ignore:a Fréchet distance over")
def test_whole_images_have_none(measured):
    images, distance = measured
    assert distance(images) < 1e-9
