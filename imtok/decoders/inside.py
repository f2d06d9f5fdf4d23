"""A decoder of images that writes maps, which a frozen space decodes to images (``in_space: [decoder]``)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.decoders.base import Decoder, GenerativeDecoder
from imtok.encoders.inside import EncoderInSpace
from imtok.spaces.base import Space, hold
from imtok.types import Condition, Loss


class DecoderInSpace(GenerativeDecoder):
    """A decoder of images that writes the map of an image, with the channels and the size of the space's map.

    Gradients of image losses reach it through the frozen space. Its own loss is the mean squared error of the map,
    and no image is decoded (``objective=flow``).

    Args:
        net: A decoder that is built for images with the size and the channels of the map.
        space: The frozen autoencoder that decodes the maps.

    Raises:
        ValueError: In ``forward`` and ``loss``, if the net refuses the size, or if the sides of the image are not
            multiples of the pixels per position.

    Example:
        >>> from imtok.decoders.patch import PatchDecoder
        >>> from imtok.spaces.patches import Patches
        >>> decoder = DecoderInSpace(PatchDecoder(8, patch_size=2, width=32, image_channels=12), Patches(factor=2))
        >>> decoder(torch.randn(1, 32, 8), size=(16, 32)).shape
        torch.Size([1, 3, 16, 32])
    """

    space: Space

    def __init__(self, net: Decoder, space: Space) -> None:
        super().__init__()
        self.net = net
        hold(self, space)
        self.flexible, self.takes, self.needs = net.flexible, net.takes, net.needs

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return self.net.last_layer

    def written(
        self,
        latents: Float[Tensor, "b n d"],
        size: tuple[int, int],
        keep: Bool[Tensor, "b n"] | None = None,
        condition: Condition | None = None,
    ) -> Float[Tensor, "b c2 h2 w2"]:
        """The map that the decoder writes; the arguments are those of ``forward``."""
        return self.net(latents, self.space.map_size(size), keep, condition)

    @override
    def forward(
        self,
        latents: Float[Tensor, "b n d"],
        size: tuple[int, int],
        keep: Bool[Tensor, "b n"] | None = None,
        condition: Condition | None = None,
    ) -> Float[Tensor, "b c h w"]:
        return self.space.decode(self.written(latents, size, keep, condition))

    @override
    def loss(
        self,
        image: Float[Tensor, "b c h w"],
        latents: Float[Tensor, "b n d"],
        keep: Bool[Tensor, "b n"] | None = None,
        condition: Condition | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Loss]:
        with torch.no_grad():
            maps = self.space.maps(image)
        written = self.written(latents, (image.shape[-2], image.shape[-1]), keep, condition)
        return {"latent": Loss(F.mse_loss(written.float(), maps.float()), 1.0)}


def kind_of(part: nn.Module) -> str:
    """The name of a part in messages: the name of its class, and whether it works in the space."""
    inside = isinstance(part, EncoderInSpace | DecoderInSpace)
    return f"{type(part.net).__name__} in the space" if inside else type(part).__name__
