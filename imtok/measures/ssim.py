"""Structural similarity (Wang et al. 2004, doi 10.1109/TIP.2003.819861)."""

import math

from einops import reduce
from jaxtyping import Float, Real
from torch import Tensor
from typing_extensions import override

from imtok.measures.mean import ImageMean

WINDOW = 11
_SIGMA = 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


class SSIM(ImageMean):
    """Mean over images of each image's SSIM: uint8 RGB, the original's Gaussian window, channels averaged.

    The window has 11 x 11 pixels and sigma 1.5, and only pixels whose whole window lies inside the image count. This
    is scikit-image's ``structural_similarity(gaussian_weights=True, use_sample_covariance=False, data_range=255)``.
    Conventions move SSIM by up to 0.08 (a data range of 2 for images in [0, 1] is a common one), so compare only
    values of the same one. Computed in float64: variances are small differences of large squares.

    Raises:
        ValueError: In ``update``, for images of less than 11 pixels a side.

    Example:
        >>> import torch
        >>> metric = SSIM()
        >>> image = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
        >>> metric.update(image, image)
        >>> metric.compute().item()
        1.0
    """

    name, title = "ssim", "SSIM"
    meaning = (
        "Structural similarity of small windows, the mean over images. 1 means identical. It falls where edges and "
        "texture are lost."
    )
    higher_is_better = True
    smallest = WINDOW
    convention = "mean over images of the SSIM of uint8 RGB pixels (Gaussian 11x11, sigma 1.5, valid, data range 255)"

    @override
    def per_image(self, image: Real[Tensor, "b c h w"], target: Real[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        if min(image.shape[-2:]) < WINDOW:
            raise ValueError(f"images must be at least {WINDOW} pixels a side for SSIM, got {tuple(image.shape[-2:])}")
        luminance, contrast = similarity_maps(image.double(), target.double())
        return reduce(luminance * contrast, "b c h w -> b", "mean")


def similarity_maps(
    x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]
) -> tuple[Float[Tensor, "b c h-10 w-10"], Float[Tensor, "b c h-10 w-10"]]:
    """The two factors of SSIM around each pixel whose window lies inside: luminance, and contrast with structure.

    Args:
        x: Levels from 0 to 255.
        y: The others.
    """
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return luminance, (2 * covariance + _C2) / (variance_x + variance_y + _C2)


def _blur(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h-10 w-10"]:
    """The Gaussian mean around each pixel whose window lies inside the image."""
    return _blur_along(_blur_along(image, axis=-2), axis=-1)


def _blur_along(image: Tensor, axis: int) -> Tensor:
    """By shifted sums: twelve times as fast as a convolution, which has no fast kernel in float64."""
    middle = WINDOW // 2
    weights = [math.exp(-0.5 * ((at - middle) / _SIGMA) ** 2) for at in range(WINDOW)]
    inside = image.shape[axis] - 2 * middle
    blurred = image.narrow(axis, middle, inside) * (weights[middle] / sum(weights))
    for at in range(middle):
        pair = image.narrow(axis, at, inside) + image.narrow(axis, WINDOW - 1 - at, inside)
        blurred.add_(pair, alpha=weights[at] / sum(weights))
    return blurred
