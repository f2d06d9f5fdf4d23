"""Multi-scale structural similarity (Wang et al. 2003, doi 10.1109/ACSSC.2003.1292216)."""

import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float, Real
from torch import Tensor
from typing_extensions import override

from imtok.measures.mean import ImageMean
from imtok.measures.ssim import WINDOW, similarity_maps

_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SMALLEST = WINDOW * 2 ** (len(_EXPONENTS) - 1)


class MSSSIM(ImageMean):
    """Mean over images of each image's MS-SSIM: uint8 RGB, five scales, mean over channels.

    Each scale halves the image by the mean of 2 x 2 pixels. Windows are those of :class:`imtok.measures.ssim.SSIM`, and
    as there only those inside the image count. Each channel has a value of its own, with what is negative set to 0,
    as in BSQ-ViT's evaluation. torchmetrics pads the last scale and averages channels before multiplying scales, which
    moves the third digit.

    Raises:
        ValueError: In ``update``, for images of less than 176 pixels a side.

    Example:
        >>> metric = MSSSIM()
        >>> image = torch.randint(256, (1, 3, 176, 181), dtype=torch.uint8)
        >>> metric.update(image, image)
        >>> metric.compute().item()
        1.0
    """

    name, title = "msssim", "MS-SSIM"
    meaning = "Structural similarity at five scales. 1 means identical."
    higher_is_better = True
    smallest = SMALLEST
    convention = "mean over images of the MS-SSIM of uint8 RGB pixels (five scales, Gaussian 11x11, valid, range 255)"

    @override
    def per_image(self, image: Real[Tensor, "b c h w"], target: Real[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        if min(image.shape[-2:]) < SMALLEST:
            raise ValueError(
                f"images must be at least {SMALLEST} pixels a side for MS-SSIM, got {tuple(image.shape[-2:])}"
            )
        x, y = image.double(), target.double()
        similarity = torch.ones(x.shape[:2], dtype=torch.float64, device=x.device)
        for scale, exponent in enumerate(_EXPONENTS):
            luminance, contrast = similarity_maps(x, y)
            last = scale == len(_EXPONENTS) - 1
            factor = reduce(luminance * contrast if last else contrast, "b c h w -> b c", "mean")
            similarity = similarity * factor.clamp_min(0) ** exponent
            if not last:
                x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        return reduce(similarity, "b c -> b", "mean")
