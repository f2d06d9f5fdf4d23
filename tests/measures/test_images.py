"""PSNR and SSIM are those of scikit-image, as means per image, however the images are split into batches."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from imtok.measures.psnr import PSNR
from imtok.measures.ssim import SSIM
from imtok.pixels import to_float, to_uint8


@pytest.fixture
def pairs():
    target = torch.nn.functional.interpolate(torch.rand(7, 3, 9, 11), (36, 44), mode="bicubic").clamp(0, 1)
    noise = torch.randn(7, 3, 36, 44) * torch.linspace(0.01, 0.3, 7)[:, None, None, None]
    return ((target + noise).clamp(0, 1) * 255).to(torch.uint8), (target * 255).to(torch.uint8)


def last(image):
    return np.moveaxis(image.numpy(), 0, -1)


def test_psnr_is_that_of_scikit_image(pairs):
    metric = PSNR()
    metric.update(*pairs)
    expected = [peak_signal_noise_ratio(last(b), last(a), data_range=255) for a, b in zip(*pairs, strict=True)]
    assert metric.compute().item() == pytest.approx(np.mean(expected), rel=1e-9)


def test_ssim_is_that_of_scikit_image(pairs):
    metric = SSIM()
    metric.update(*pairs)
    options = {"gaussian_weights": True, "use_sample_covariance": False, "sigma": 1.5, "channel_axis": -1}
    expected = [structural_similarity(last(b), last(a), data_range=255, **options) for a, b in zip(*pairs, strict=True)]
    assert metric.compute().item() == pytest.approx(np.mean(expected), rel=1e-6)


@pytest.mark.parametrize("metric_class", [PSNR, SSIM])
def test_batches_add_up(pairs, metric_class):
    whole, split = metric_class(), metric_class()
    whole.update(*pairs)
    for at, size in ((0, 1), (1, 4), (5, 2)):
        split.update(pairs[0][at : at + size], pairs[1][at : at + size])
    assert split.compute().item() == pytest.approx(whole.compute().item(), rel=1e-12)


def test_an_exact_image_does_not_spoil_the_mean(pairs):
    metric = PSNR()
    metric.update(torch.cat([pairs[0], pairs[1][:1]]), torch.cat([pairs[1], pairs[1][:1]]))
    assert torch.isfinite(metric.compute())
    ssim = SSIM()
    ssim.update(pairs[1], pairs[1])
    assert ssim.compute().item() == pytest.approx(1, abs=1e-9)


def test_pixels_go_there_and_back_on_all_levels():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(levels)), levels)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert torch.equal(to_uint8(to_float(levels).to(dtype)), levels)


def test_pixels_out_of_range_are_clamped_and_nan_is_refused():
    assert to_uint8(torch.tensor([-7.0, 1.01, 30.0])).tolist() == [0, 255, 255]
    with pytest.raises(ValueError, match="got NaN"):
        to_uint8(torch.tensor([0.0, float("nan")]))
