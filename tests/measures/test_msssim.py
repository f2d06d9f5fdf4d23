"""MS-SSIM is put together from scales that scikit-image and torchmetrics agree with."""

import pytest
import torch
from skimage.metrics import structural_similarity
from torch.nn.functional import avg_pool2d, interpolate
from torchmetrics.functional.image.ssim import _ssim_update, multiscale_structural_similarity_index_measure

from imtok.measures.msssim import MSSSIM


@pytest.fixture
def pairs():
    target = interpolate(torch.rand(3, 3, 24, 26), (192, 208), mode="bicubic").clamp(0, 1)
    noise = torch.randn(target.shape) * torch.tensor([0.02, 0.1, 0.3])[:, None, None, None]
    return ((target + noise).clamp(0, 1) * 255).to(torch.uint8), (target * 255).to(torch.uint8)


def reference(image, target):
    """Of one channel: contrasts by torchmetrics, which are valid ones, and the last scale by scikit-image."""
    x, y, value = image[None, None].double(), target[None, None].double(), 1.0
    for exponent in (0.0448, 0.2856, 0.3001, 0.2363):
        contrast = _ssim_update(x, y, data_range=255.0, return_contrast_sensitivity=True)[1]
        value *= contrast.item() ** exponent
        x, y = avg_pool2d(x, 2), avg_pool2d(y, 2)
    last = structural_similarity(
        x[0, 0].numpy(), y[0, 0].numpy(), data_range=255, gaussian_weights=True, use_sample_covariance=False
    )
    return value * last**0.1333


def test_it_is_made_of_the_scales_of_the_peers(pairs):
    metric = MSSSIM()
    metric.update(*pairs)
    channels = [reference(*pair) for pair in zip(pairs[0].flatten(0, 1), pairs[1].flatten(0, 1), strict=True)]
    assert metric.compute().item() == pytest.approx(sum(channels) / 9, rel=1e-7)


def test_torchmetrics_is_near(pairs):
    for image, target in zip(*pairs, strict=True):
        metric = MSSSIM()
        metric.update(image[None], target[None])
        # torchmetrics pads the last scale, here 12 x 13 pixels
        theirs = multiscale_structural_similarity_index_measure(
            image[None].float(), target[None].float(), data_range=255.0
        )
        assert metric.compute().item() == pytest.approx(theirs.item(), abs=0.01)


def test_images_too_small_for_five_scales_are_refused():
    image = torch.zeros(1, 3, 175, 200, dtype=torch.uint8)
    with pytest.raises(ValueError, match="at least 176 pixels a side for MS-SSIM, got"):
        MSSSIM().update(image, image)


def test_an_inverted_image_has_none():
    metric = MSSSIM()
    image = torch.randint(256, (1, 3, 176, 176), dtype=torch.uint8)
    metric.update(255 - image, image)
    assert metric.compute().item() == 0
