"""The decoder of CAT (arXiv 2501.03120): one convolutional net that is entered at 32, 16 or 8 pixels per latent."""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.decoders.base import Decoder
from imtok.encoders.cat import check_maps, map_counts
from imtok.nn.convolution import Attention, ConvolutionStack, Layer, activated_norm, level_layers
from imtok.nn.grid import to_map
from imtok.nn.resampling import Upsampling, upsampler
from imtok.types import Condition


class CATDecoder(Decoder):
    """One net that decodes maps of several sizes. The number of latents tells the map and the level where it enters.

    If the number of latents lies between those of two maps, the first latents are read as the coarser map.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        channels: Channels at full resolution.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first, as in the encoder.
        finest: The level where the finest map enters, as in the encoder.
        blocks: Residual blocks per level.
        attention: "lowest" = at the lowest resolution attention follows every residual block; "none".
        middle: Layers before the first level that a map passes, for each map.
        upsample: How the resolution is doubled (``imtok.nn.resampling``).
        bias: Whether the convolutions of residual blocks have a bias.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If an argument is not one of its choices; in ``forward``, if there are more latents than the
            finest map of an image of that size has, or fewer than the coarsest map has.

    Example:
        >>> decoder = CATDecoder(8, channels=32, multipliers=(1, 1, 1), finest=1)
        >>> decoder(torch.randn(1, 16, 8), size=(16, 16)).shape
        torch.Size([1, 3, 16, 16])
    """

    flexible = True

    def __init__(
        self,
        in_dim: int,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 4, 4, 4),
        finest: int = 3,
        blocks: int = 3,
        attention: Attention = "lowest",
        middle: Sequence[Layer] = ("residual", "attention", "residual"),
        upsample: Upsampling = "nearest",
        bias: bool = True,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        check_maps(multipliers, finest)
        self.factors = tuple(2**level for level in range(finest, len(multipliers)))
        widths = [channels * multiplier for multiplier in multipliers]
        self.conv_in = nn.Conv2d(in_dim, widths[-1], 3, padding=1)
        self.middle = ConvolutionStack(middle, widths[-1], widths[-1], bias)
        layers = level_layers(len(widths), blocks, attention)
        incoming = [*widths[1:], widths[-1]]
        levels = [
            nn.Sequential(ConvolutionStack(own, before, after, bias), upsampler(upsample, after))
            for own, before, after in zip(layers[1:], incoming[1:], widths[1:], strict=True)
        ]  # of each level but that of full resolution, which ends in no doubling
        last = ConvolutionStack(layers[0], incoming[0], widths[0], bias)
        self.levels = nn.Sequential(*reversed(levels[:finest]), last)
        self.coarser = nn.ModuleList(reversed(levels[finest:]))
        self.norm_out = activated_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], image_channels, 3, padding=1)

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return cast(nn.Parameter, self.conv_out.weight)

    @override
    def forward(
        self,
        latents: Float[Tensor, "b n d"],
        size: tuple[int, int],
        keep: Bool[Tensor, "b n"] | None = None,
        condition: Condition | None = None,
    ) -> Float[Tensor, "b c h w"]:
        counts = map_counts(size, self.factors)
        number = latents.shape[1]
        if not counts[-1] <= number <= counts[0]:
            raise ValueError(
                f"latents must be between {counts[-1]} and {counts[0]} for an image of {size[0]} x {size[1]}, got "
                f"{number}"
            )
        kept = keep.sum(1) if keep is not None else torch.full((latents.shape[0],), number, device=latents.device)
        present = latents if keep is None else latents.masked_fill(~keep[..., None], 0)
        present = F.pad(present, (0, 0, 0, counts[0] - number))
        features: Tensor | None = None
        for place in reversed(range(len(counts))):
            own = to_map(present[:, : counts[place]], size, self.factors[place])
            entered = self.middle(self.conv_in(own))
            if features is not None:
                enters = kept >= counts[place]
                entered = torch.where(enters[:, None, None, None], entered, features)
            features = self.coarser[len(counts) - 1 - place](entered) if place else entered
        assert features is not None, "there are maps"
        return self.conv_out(self.norm_out(self.levels(features)))
