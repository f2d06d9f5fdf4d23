"""An encoder of images that reads the maps of a frozen space (``in_space: [encoder]``)."""

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.encoders.base import Encoder, encoded
from imtok.spaces.base import Space, hold
from imtok.spaces.inside import said_of_maps
from imtok.types import Condition, Latents


class EncoderInSpace(Encoder):
    """Takes what a space makes of an image for the image, with the space's channels and at the size of its map.

    Args:
        net: Built for images of that size and with so many channels.
        space: The frozen net whose maps it reads.

    Raises:
        ValueError: In ``forward`` and ``num_latents``, if space or net cannot read images of this size.

    Example:
        >>> import torch
        >>> from imtok.encoders.patch import PatchEncoder
        >>> from imtok.spaces.patches import Patches
        >>> encoder = EncoderInSpace(PatchEncoder(8, patch_size=2, width=32, image_channels=12), Patches(factor=2))
        >>> encoder(torch.rand(1, 3, 16, 32) * 2 - 1).values.shape
        torch.Size([1, 32, 8])
    """

    space: Space

    def __init__(self, net: Encoder, space: Space) -> None:
        super().__init__()
        self.net = net
        hold(self, space)
        self.takes, self.needs, self.budgeted = net.takes, net.needs, net.budgeted

    @override
    def forward(
        self, image: Float[Tensor, "b c h w"], length: int | None = None, condition: Condition | None = None
    ) -> Latents:
        self.num_latents((image.shape[-2], image.shape[-1]))
        return encoded(self.net, self.space.maps(image), length, condition)

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        inner = self.space.map_size(size)
        with said_of_maps(self.space):
            return self.net.num_latents(inner)
