"""Pixels at imtok's edges (uint8) and inside it (float in ``[-1, 1]``)."""

import torch
from einops import rearrange
from jaxtyping import Float, Real, UInt8
from torch import Tensor

CHANNELS = (1, 3, 4)  # grey, RGB, RGB and alpha
FINE = 257  # steps of 16-bit grey in a level: 65,535 = 255 x 257

FARTHEST = 2.0  # from 0: beyond it, a value is no overshoot of an image in [-1, 1]


def to_float(image: Real[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Levels 0 to 255, uint8 or with fractions, as float32 in ``[-1, 1]``."""
    return image.to(torch.float32, copy=True).div_(127.5).sub_(1)  # in place: new memory costs more than the sums


def to_range(image: Float[Tensor, "*shape"], value_range: tuple[float, float]) -> Float[Tensor, "*shape"]:
    """An image in ``[-1, 1]`` as a net wants it that was trained on ``value_range``."""
    low, high = value_range
    return image if (low, high) == (-1, 1) else (image + 1) * ((high - low) / 2) + low


def from_range(image: Float[Tensor, "*shape"], value_range: tuple[float, float]) -> Float[Tensor, "*shape"]:
    """The inverse of :func:`to_range`."""
    low, high = value_range
    return image if (low, high) == (-1, 1) else (image - low) * (2 / (high - low)) - 1


def to_uint8(image: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """The nearest level of each value; ``to_float`` undone exactly on all 256 levels.

    Values outside ``[-1, 1]`` are clamped first (a cast alone would wrap them around), and none is truncated, which
    would darken a quarter of the levels by one.

    Raises:
        ValueError: If a value is NaN: as a level it would look like black.

    Example:
        >>> to_uint8(torch.tensor([-1.5, -1.0, 0.0, 1.0]))
        tensor([  0,   0, 128, 255], dtype=torch.uint8)
    """
    if image.isnan().any():
        raise ValueError("pixels must be numbers to become uint8, got NaN")
    exact = image if image.dtype == torch.float64 else image.float()
    return ((exact.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_levels(image: Float[Tensor, "*b c h w"]) -> Real[Tensor, "*b c h w"]:
    """The nearest level of each value: uint8, and of images of one channel one of 65,536, as float32 in [0, 255].

    Grey images keep the depth of 16-bit files: their levels are multiples of 1/257, and :func:`to_float` is undone
    exactly on all of them.

    Raises:
        ValueError: If a value is NaN.

    Example:
        >>> to_levels(torch.full((1, 1, 1, 1), 0.1))
        tensor([[[[140.2490]]]])
    """
    return to_uint8(image) if image.shape[-3] != 1 else to_uint16(image).to(torch.float32) / FINE


def to_uint16(image: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The nearest of 65,536 levels of values in ``[-1, 1]``: whole numbers from 0 to 65,535, as float64.

    Raises:
        ValueError: If a value is NaN.
    """
    if image.isnan().any():
        raise ValueError("pixels must be numbers to become 16-bit levels, got NaN")
    return ((image.double().clamp(-1, 1) + 1) * (127.5 * FINE)).round()


def to_rgb(image: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b 3 h w"]:
    """Images in ``[-1, 1]`` of 1, 3 or 4 channels as nets see them that know colours alone; it has gradients.

    Grey becomes three equal channels; where alpha is below 1, white shows through.

    Example:
        >>> to_rgb(torch.tensor([0.5, 0.0, -1.0, -1.0]).view(4, 1, 1)).flatten()  # wholly transparent
        tensor([1., 1., 1.])
    """
    channels = image.shape[-3]
    if channels == 4:
        alpha = (image[..., 3:, :, :] + 1) / 2
        return image[..., :3, :, :] * alpha + (1 - alpha)
    return image if channels == 3 else image.expand(*image.shape[:-3], 3, *image.shape[-2:])


def rgb_levels(levels: Real[Tensor, "*b c h w"]) -> UInt8[Tensor, "*b 3 h w"]:
    """Levels of 1, 3 or 4 channels as uint8 RGB, to look at, or for what knows nothing else."""
    return levels if levels.shape[-3] == 3 and levels.dtype == torch.uint8 else to_uint8(to_rgb(to_float(levels)))


def as_channels(image: UInt8[Tensor, "own h w"], channels: int) -> Real[Tensor, "channels h w"]:
    """Grey or RGB pixels with 1, 3 or 4 channels.

    Of colours one channel keeps the luma (ITU-R BT.601, rounded as Pillow does), as float32; a fourth channel is
    alpha, all opaque.

    Example:
        >>> as_channels(torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1), 1)
        tensor([[[76.]]])
    """
    if channels == 1:
        if len(image) == 1:
            return image.to(torch.float32)
        red, green, blue = image.to(torch.int32)
        return rearrange((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16, "h w -> 1 h w").to(torch.float32)
    colour = image.expand(3, -1, -1)
    return colour if channels == 3 else torch.cat([colour, torch.full_like(colour[:1], 255)])


def check_channels(channels: int) -> None:
    """Raise ValueError unless images can have so many channels."""
    if channels not in CHANNELS or isinstance(channels, bool):
        raise ValueError(f"channels must be 1 (grey), 3 (RGB) or 4 (RGB and alpha), got {channels!r}")


def check_image(image: Tensor) -> None:
    """Refuse what is certainly no image in ``[-1, 1]``: an encoder would make valid ids of it.

    Resizing overshoots a little. An image in [0, 1] lies in the range, so nothing tells it from a bright one.

    Raises:
        ValueError: For whole numbers, and for values beyond 2.
    """
    cure = "give tokenizer.preprocess(image), or image / 127.5 - 1 (imtok.pixels.to_float) for levels from 0 to 255"
    if not image.is_floating_point():
        raise ValueError(f"images must be floats in [-1, 1], got {image.dtype}; {cure}")
    if not image.numel():
        return
    low, high = (value.item() for value in image.detach().aminmax())
    if max(abs(low), abs(high)) > FARTHEST:  # never for NaN
        other = "undo another normalisation, such as by mean and deviation"
        raise ValueError(f"images must lie in [-1, 1], got values from {low:.4g} to {high:.4g}; {cure}, or {other}")
