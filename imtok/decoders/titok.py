"""TiTok's one-stage decoder (arXiv 2406.07550), with text as in TA-TiTok (arXiv 2501.07730): patches of pixels."""

from typing import Unpack, cast

from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.decoders.mask_tokens import MaskTokenDecoder, TextTrunkSettings
from imtok.nn.grid import grid_size
from imtok.nn.initialization import start_weights
from imtok.nn.patches import from_patches
from imtok.pixels import from_range
from imtok.types import Condition


class TiTokPixelDecoder(MaskTokenDecoder):
    """Each mask token writes its patch, and a convolution goes over the image: the one-stage TiTok and TA-TiTok.

    Without the convolution it is ImageFolder's (arXiv 2410.01756), whose latents hold its branches side by side.

    Text (TA-TiTok, arXiv 2501.07730) helps the decoder alone, so codes do not depend on it. An image without text gets
    a learned vector of ``context_dim`` in place of each text token, which the published net does not have. So does a
    place after the last word, where the condition says that there is nothing.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images that the positions are for, in pixels; the builder sets it.
        num_latents: The most latents that it decodes; the builder sets it.
        kernel_out: Side of the convolution's kernel, odd; None = the patches are the image.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.
        **trunk: As of :class:`~imtok.decoders.mask_tokens.MaskTokenDecoder`.

    Raises:
        ValueError: If the image size is no multiple of ``patch_size`` or ``kernel_out`` is even; in ``forward``, if
            latents, size or text do not fit; or if the condition's text has other sizes than ``context_dim`` says.

    Example:
        >>> import torch
        >>> decoder = TiTokPixelDecoder(in_dim=12, image_size=64, num_latents=8, width=32, depth=1, heads=2)
        >>> decoder(torch.randn(1, 8, 12), size=(64, 64)).shape
        torch.Size([1, 3, 64, 64])
    """

    def __init__(
        self,
        in_dim: int,
        image_size: int,
        num_latents: int,
        kernel_out: int | None = 3,
        image_channels: int = 3,
        **trunk: Unpack[TextTrunkSettings],
    ) -> None:
        if kernel_out is not None and kernel_out % 2 == 0:
            raise ValueError(f"kernel_out must be odd, got {kernel_out}")
        super().__init__(in_dim, image_size, num_latents, **trunk)
        self.pixels = nn.Linear(self.width, image_channels * self.patch_size**2)
        self.conv_out: nn.Module = nn.Identity()
        if kernel_out:
            self.conv_out = nn.Conv2d(image_channels, image_channels, kernel_out, padding=kernel_out // 2)
        start_weights(self.pixels, self.start)
        start_weights(self.conv_out, self.start)

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        last = self.conv_out if isinstance(self.conv_out, nn.Conv2d) else self.pixels
        return cast(nn.Parameter, last.weight)

    @override
    def forward(
        self,
        latents: Float[Tensor, "b n d"],
        size: tuple[int, int],
        keep: Bool[Tensor, "b n"] | None = None,
        condition: Condition | None = None,
    ) -> Float[Tensor, "b c h w"]:
        grid = grid_size(size, self.patch_size)
        patches = from_patches(self.pixels(self.features(latents, size, keep, condition)), grid, self.patch_size)
        return from_range(self.conv_out(patches), self.value_range)
