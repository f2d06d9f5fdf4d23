"""Peak signal-to-noise ratio."""

import torch
from einops import reduce
from jaxtyping import Float, Real
from torch import Tensor
from typing_extensions import override

from imtok.measures.mean import ImageMean


class PSNR(ImageMean):
    """Mean over images of each image's PSNR in dB: RGB, uint8, peak 255.

    This is the mean of scikit-image's ``peak_signal_noise_ratio``. It lies 0.5 to 1 dB above the PSNR of a squared
    error that was pooled over a batch, which depends on the batch. An image without any error has an infinite PSNR,
    which would be the mean of every data set that holds one: each image counts for at most 100 dB, the PSNR of one
    wrong level in a colour of about 51,000 pixels.

    Example:
        >>> metric = PSNR()
        >>> target = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
        >>> metric.update(target + 1, target)
        >>> round(metric.compute().item(), 2)
        48.13
    """

    name, title, unit = "psnr", "PSNR", "dB"
    meaning = "Peak signal-to-noise ratio, the mean over images. Six decibels more mean half the error of a pixel."
    higher_is_better = True
    convention = "mean over images of the PSNR of uint8 RGB pixels (rounded, peak 255), at most 100 dB each"
    most = 100.0

    @override
    def per_image(self, image: Real[Tensor, "b c h w"], target: Real[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        if image.is_floating_point():
            error = (image.double() - target.double()).square().flatten(1).mean(1)
            return (10 * torch.log10(255**2 / error)).clamp(max=self.most)
        difference = image.int() - target.int()  # exact, and so is the sum of squares
        error = reduce(difference.square().long(), "b c h w -> b", "sum").double() / difference[0].numel()
        return (10 * torch.log10(255**2 / error)).clamp(max=self.most)
