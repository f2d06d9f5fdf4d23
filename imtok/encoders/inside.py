"""An encoder of images that reads the maps of a frozen space (``in_space: [encoder]``)."""

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.encoders.base import Encoder, encoded
from imtok.spaces.base import Space, hold
from imtok.spaces.inside import said_of_maps
from imtok.types import Condition, Latents


class EncoderInSpace(Encoder):
    """An encoder of images that reads the space's map of an image, with the map's channels and size.

    Args:
        net: An encoder that is built for images with the size and the channels of the map.
        space: The frozen net that makes the maps.

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
