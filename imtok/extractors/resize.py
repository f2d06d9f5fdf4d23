"""How an image is brought to the input size of a net: ways that move FID by up to one per cent."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def resize_tf1(image: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c height width"]:
    """Bilinear as in TensorFlow 1: output pixel ``i`` looks at ``i * in / out``, without the half-pixel shift.

    That is what ADM's graph, torch-fidelity and torchmetrics (``antialias=False``) do.

    Args:
        image: Images.
        size: Height and width wanted, in pixels.

    Example:
        >>> resize_tf1(torch.tensor([[[[0.0, 3.0], [6.0, 9.0]]]]), (3, 3))[0, 0].tolist()
        [[0.0, 2.0, 3.0], [4.0, 6.0, 7.0], [6.0, 8.0, 9.0]]
    """
    return _along(_along(image, size[1], -1), size[0], -2)


def resize_half_pixel(image: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c height width"]:
    """Bilinear between pixel centres, without a low-pass filter, as in pytorch-fid."""
    return F.interpolate(image, size, mode="bilinear", align_corners=False)


def resize_antialiased(image: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c height width"]:
    """Bilinear between pixel centres with a low-pass filter, as in torchmetrics by default and in Pillow."""
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)


def resize_bicubic(image: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c height width"]:
    """Bicubic between pixel centres with a low-pass filter, as in Pillow; levels stay within 0 and 255."""
    return F.interpolate(image, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 255)


RESIZERS = {
    "tf1": resize_tf1,
    "half_pixel": resize_half_pixel,
    "antialiased": resize_antialiased,
    "bicubic": resize_bicubic,
}


def _along(image: Tensor, size: int, axis: int) -> Tensor:
    # positions in float32 whatever the image: TensorFlow computed them so
    at = torch.arange(size, device=image.device, dtype=torch.float32) * (image.shape[axis] / size)
    below = at.long()
    above = (below + 1).clamp(max=image.shape[axis] - 1)
    share = (at - below).to(image.dtype)
    share = share if axis == -1 else share[:, None]
    low = image.index_select(axis, below)
    return low + (image.index_select(axis, above) - low) * share
