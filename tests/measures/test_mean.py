"""Means over images are the same number, to the last bit, however the images come."""

import pytest
import torch
from skimage.metrics import structural_similarity

from imtok.measures.bits import Rate
from imtok.measures.psnr import PSNR
from imtok.measures.ssim import SSIM


@pytest.fixture
def pairs():
    target = torch.randint(0, 256, (23, 3, 20, 28), dtype=torch.uint8)
    noise = torch.randint(-30, 30, target.shape) * torch.rand(23, 1, 1, 1)
    return (target + noise).clamp(0, 255).to(torch.uint8), target


@pytest.mark.parametrize("metric_class", [PSNR, SSIM])
@pytest.mark.parametrize("size", [1, 2, 7, 22])
def test_no_split_and_no_order_changes_a_bit(pairs, metric_class, size):
    whole, split = metric_class(), metric_class()
    whole.update(*pairs)
    order = torch.randperm(23)
    for rows in order.split(size):
        split.update(pairs[0][rows], pairs[1][rows])
    assert split.compute().item() == whole.compute().item()


def test_the_mean_is_per_image_and_not_of_the_pooled_error():
    target = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    metric = PSNR()
    metric.update(target + torch.tensor([1, 100], dtype=torch.uint8)[:, None, None, None], target)
    assert metric.compute().item() == pytest.approx((48.1308036 + 8.1308036) / 2, abs=1e-6)


def test_images_without_error_count_for_100_db(pairs):
    metric = PSNR()
    metric.update(pairs[1], pairs[1])
    assert metric.compute().item() == 100


def test_ssim_is_that_of_scikit_image_to_nine_digits(pairs):
    options = {"gaussian_weights": True, "use_sample_covariance": False, "channel_axis": 0, "data_range": 255}
    for image, target in zip(*pairs, strict=True):
        metric = SSIM()
        metric.update(image[None], target[None])
        expected = structural_similarity(target.numpy(), image.numpy(), **options)
        assert metric.compute().item() == pytest.approx(expected, rel=1e-9)


def test_flat_images_have_an_ssim():
    metric = SSIM()
    metric.update(
        torch.full((1, 3, 16, 16), 255, dtype=torch.uint8), torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    )
    assert metric.compute().item() == pytest.approx(1, abs=1e-9)


def test_images_too_small_for_the_window_are_refused():
    with pytest.raises(ValueError, match="at least 11 pixels a side"):
        SSIM().update(torch.zeros(1, 3, 10, 64, dtype=torch.uint8), torch.zeros(1, 3, 10, 64, dtype=torch.uint8))


def test_reset_forgets_all_images(pairs):
    metric = PSNR()
    metric.update(*pairs)
    metric.reset()
    metric.update(pairs[0][:1], pairs[1][:1])
    assert metric.count == 1


def test_a_rate_counts_what_is_transmitted():
    metric, keep = Rate(), torch.rand(5, 16) < 0.5
    metric.update(torch.zeros(5, 16, 2, dtype=torch.int64), (32, 48), keep)
    metric.update(torch.zeros(1, 16, 2, dtype=torch.int64), (32, 48))
    tokens, rate = int(keep.sum()) + 16, metric.compute()
    assert rate == {"images": 6, "tokens_per_image": tokens / 6, "tokens_per_pixel": tokens / (6 * 32 * 48)}


def test_a_value_that_is_not_finite_is_refused():
    class Broken(PSNR):
        def per_image(self, image, target):
            return super().per_image(image, target) / 0

    image = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"the Broken of an image must be finite, got \[inf, inf\]"):
        Broken().update(image, image)
