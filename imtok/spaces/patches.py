"""Pixels as channels: a space without a net, from which every image comes back as it was."""

from pathlib import Path

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from imtok.errors import InputError
from imtok.spaces.base import Space


class Patches(Space):
    """Squares of pixels as the channels of one position, and back. It has no weights.

    What is drawn in it needs no trained autoencoder to be an image. It is as large as the image.

    Args:
        factor: Side of a square, in pixels.
        scale: What pixels are multiplied by; those of photographs have a deviation of about 0.5.
        cache: See :class:`~imtok.spaces.base.Space`.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If ``factor`` or ``scale`` is not positive; in ``encode``, if a side is no multiple of ``factor``.

    Example:
        >>> import torch
        >>> space, image = Patches(factor=2), torch.rand(1, 3, 8, 16) * 2 - 1
        >>> features = space.encode(image)
        >>> features.shape, torch.equal(space.decode(features), image)
        (torch.Size([1, 12, 4, 8]), True)
    """

    def __init__(self, factor: int = 2, scale: float = 2.0, cache: str | None = None, image_channels: int = 3) -> None:
        super().__init__(cache=cache)
        if factor < 1 or scale <= 0:
            raise ValueError(f"factor and scale must be positive, got {factor} and {scale}")
        self.dim = image_channels * factor**2
        self.factor = factor
        self.scale = scale

    @override
    def encode(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        if image.shape[-2] % self.factor or image.shape[-1] % self.factor:
            shape = f"{image.shape[-2]} x {image.shape[-1]}"
            raise ValueError(f"sides of an image must be multiples of {self.factor} for this space, got {shape}")
        return F.pixel_unshuffle(image, self.factor) * self.scale

    @override
    def decode(self, features: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b c h w"]:
        return F.pixel_shuffle(features / self.scale, self.factor)

    @override
    def read_weights(self, path: Path) -> None:
        raise InputError(f"space.weights={path} cannot be read: patches of pixels have no weights; leave it out")
