"""The maps of a frozen autoencoder as latents: to quantize what another has encoded (ReVQ, arXiv 2507.10547)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import nn
from typing_extensions import override

from imtok.encoders.base import GridEncoder
from imtok.nn.convolution import ConvolutionStack, Layer, activated_norm
from imtok.nn.patches import to_patches
from imtok.spaces.base import Space, hold_patches


class SpaceEncoder(GridEncoder):
    """A latent per patch of the map that a frozen space makes of an image, as it is or behind some layers.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        space: The frozen autoencoder; the builder passes it.
        patch_size: Side of a patch, in positions of the map. A latent is as wide as the space has channels, times the
            positions of a patch.
        layers: Layers at the resolution of the map, between two convolutions; () = latents are the map itself, and
            nothing here learns.
        channels: Channels of these layers, a multiple of 32.

    Raises:
        ValueError: If there is no space, or the map's width is not the quantizer's where nothing lies between them; in
            ``forward`` and ``num_latents``, if the image is no multiple of the pixels per latent.

    Example:
        >>> from imtok.spaces.patches import Patches
        >>> encoder = SpaceEncoder(12, Patches(factor=2))
        >>> encoder(torch.rand(1, 3, 8, 16) * 2 - 1).values.shape
        torch.Size([1, 32, 12])
    """

    space: Space

    def __init__(
        self,
        out_dim: int,
        space: Space | None = None,
        patch_size: int = 1,
        layers: Sequence[Layer] = (),
        channels: int = 128,
    ) -> None:
        super().__init__()
        width = hold_patches(self, space, patch_size, "encoder")
        self.patch_size, self.factor = patch_size, patch_size * self.space.factor
        if not layers and out_dim != width:
            raise ValueError(
                f"quantizer.dim must be {width} ({self.space.dim} channels of the space times {patch_size**2} "
                f"positions), got {out_dim}; give that, or encoder.layers"
            )
        self.layers = None
        if layers:
            self.layers = nn.Sequential(
                nn.Conv2d(self.space.dim, channels, 3, padding=1),
                ConvolutionStack(layers, channels, channels),
                activated_norm(channels),
                nn.Conv2d(channels, out_dim, patch_size, stride=patch_size),
            )

    @override
    def encode(self, image: Float[torch.Tensor, "b 3 h w"]) -> Float[torch.Tensor, "b n d"]:
        maps = self.space.maps(image)
        return to_patches(maps, self.patch_size) if self.layers is None else to_patches(self.layers(maps), 1)
