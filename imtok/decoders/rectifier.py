"""A small net that mends quantized maps before a frozen autoencoder decodes them (ReVQ, arXiv 2507.10547)."""

from collections.abc import Sequence
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.decoders.base import GenerativeDecoder, WholeDecoder
from imtok.nn.convolution import ConvolutionStack, Layer, activated_norm
from imtok.nn.grid import to_map
from imtok.spaces.base import Space, hold_patches
from imtok.types import Condition, Loss


class Rectifier(WholeDecoder, GenerativeDecoder):
    """Adds to the map that the codes stand for what layers make of it, and lets the space decode the sum.

    Its own loss is the mean squared error of that map, for which no image is decoded (``objective=flow``). With image
    losses it learns through the frozen decoder. At the start it adds nothing: the image is that of plain quantization.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        space: The frozen autoencoder; the builder passes it.
        patch_size: Side of a patch, in positions of the map.
        layers: Layers at the resolution of the map; () = none, plain quantization.
        channels: Channels of these layers, a multiple of 32.

    Raises:
        ValueError: If there is no space; in ``forward`` and ``loss``, if the latents do not fill the image, or some
            were not kept.

    Example:
        >>> from imtok.spaces.patches import Patches
        >>> decoder = Rectifier(12, Patches(factor=2), layers=["residual"], channels=32)
        >>> decoder(torch.randn(1, 32, 12), size=(8, 16)).shape
        torch.Size([1, 3, 8, 16])
    """

    space: Space

    def __init__(
        self,
        in_dim: int,
        space: Space | None = None,
        patch_size: int = 1,
        layers: Sequence[Layer] = ("residual", "attention", "residual", "attention", "residual"),
        channels: int = 512,
    ) -> None:
        super().__init__()
        width = hold_patches(self, space, patch_size, "decoder")
        self.patch_size, self.factor = patch_size, patch_size * self.space.factor
        self.project = nn.Identity() if in_dim == width else nn.Linear(in_dim, width)
        self.conv_in = nn.Conv2d(self.space.dim, channels, 3, padding=1)
        self.layers = ConvolutionStack(layers, channels, channels)
        self.norm_out = activated_norm(channels)
        self.conv_out = nn.Conv2d(channels, self.space.dim, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(cast(Tensor, self.conv_out.bias))

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return cast(nn.Parameter, self.conv_out.weight)

    def plain(self, latents: Float[Tensor, "b n d"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """The map that the codes stand for, before it is mended."""
        features = to_map(self.project(latents), size, self.factor)
        pattern = "b (p q c) h w -> b c (h p) (w q)"
        return rearrange(features, pattern, p=self.patch_size, q=self.patch_size)

    def rectified(self, latents: Float[Tensor, "b n d"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """The mended map."""
        plain = self.plain(latents, size)
        return plain + self.conv_out(self.norm_out(self.layers(self.conv_in(plain))))

    @override
    def decode(self, latents: Float[Tensor, "b n d"], size: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
        return self.space.decode(self.rectified(latents, size))

    @override
    def loss(
        self,
        image: Float[Tensor, "b 3 h w"],
        latents: Float[Tensor, "b n d"],
        keep: Bool[Tensor, "b n"] | None = None,
        condition: Condition | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Loss]:
        self.require_all(keep)
        with torch.no_grad():
            maps = self.space.maps(image)
        rectified = self.rectified(latents, (image.shape[-2], image.shape[-1]))
        return {"latent": Loss(F.mse_loss(rectified.float(), maps.float()), 1.0)}
