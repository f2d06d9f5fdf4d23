"""The encoder of TokenFlow (arXiv 2412.03069): a transformer for meaning beside a convolutional net for pixels."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.encoders.base import Encoder
from imtok.encoders.cnn import CNNEncoder
from imtok.encoders.vit import ViTEncoder
from imtok.nn.convolution import Attention, Layer
from imtok.nn.initialization import Start
from imtok.nn.norms import TokenNorm
from imtok.nn.resampling import Downsampling
from imtok.types import Condition, Latents


class SemanticPixelEncoder(Encoder):
    """Two nets read the image; their latents stand side by side in channels, those of the transformer first.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images that the transformer's positions are for, in pixels; the builder sets it.
        pixel_share: Share of the latents' channels that the CNN makes, in (0, 1), rounded to whole channels; the
            transformer makes the others. Each makes one at least.
        patch_size: Side of the transformer's patches, in pixels: as many as the CNN has per latent.
        width: The transformer's; this and what follows as in ``ViTEncoder``.
        depth: Number of blocks.
        heads: Attention heads of each.
        norm_in: Of the tokens before the first block.
        positions: "fixed" = other image sizes are refused; "interpolated" = the positions are resized for them.
        start: How the transformer's weights start (``imtok.nn.initialization``).
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.
        channels: The CNN's at full resolution; this and what follows as in ``CNNEncoder``.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first.
        blocks: Residual blocks per level.
        attention: Where the CNN attends: "lowest" resolution or "none".
        middle: Layers at the lowest resolution, after its level.
        downsample: How the resolution is halved.
        bias: Whether the CNN's convolutions have a bias.
        kernel_out: Side of the last convolution's kernel, odd.
        latent_channels: Channels that the last convolution writes; None = the latents themselves.

    Raises:
        ValueError: If an argument has no such choice, the two nets have other numbers of pixels per latent,
            ``pixel_share`` is out of range, or there is one channel alone; in ``forward`` and ``num_latents``, for
            images of another size unless positions are interpolated.

    Example:
        >>> encoder = SemanticPixelEncoder(
        ...     10, image_size=16, patch_size=4, width=16, depth=1, heads=2, channels=16,
        ...     multipliers=(1, 1, 2),
        ... )
        >>> encoder(torch.rand(1, 3, 16, 16) * 2 - 1).values.shape
        torch.Size([1, 16, 10])
    """

    def __init__(
        self,
        out_dim: int,
        image_size: int,
        pixel_share: float = 0.2,
        patch_size: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        norm_in: TokenNorm = "layer",
        positions: Literal["fixed", "interpolated"] = "fixed",
        start: Start = "normal",
        checkpoint: bool = False,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        attention: Attention = "lowest",
        middle: Sequence[Layer] = ("residual", "attention", "residual"),
        downsample: Downsampling = "padded_end",
        bias: bool = True,
        kernel_out: int = 3,
        latent_channels: int | None = 256,
    ) -> None:
        super().__init__()
        if out_dim < 2:
            raise ValueError(f"the latents' width must be at least 2 to hold meaning and pixels, got {out_dim}")
        if not 0 < pixel_share < 1:
            raise ValueError(f"pixel_share must be in (0, 1), got {pixel_share}")
        pixel_dim = min(max(round(out_dim * pixel_share), 1), out_dim - 1)
        factor = 2 ** (len(multipliers) - 1)
        if patch_size != factor:
            raise ValueError(f"patch_size must be {factor}, the pixels per latent of multipliers, got {patch_size}")
        cnn = (channels, multipliers, blocks, attention, middle, downsample, bias, kernel_out, latent_channels)
        self.semantic = ViTEncoder(
            out_dim - pixel_dim,
            image_size,
            patch_size,
            width,
            depth,
            heads,
            norm_in=norm_in,
            positions=positions,
            start=start,
            checkpoint=checkpoint,
        )
        self.pixels = CNNEncoder(pixel_dim, *cnn)

    @override
    def forward(
        self, image: Float[Tensor, "b 3 h w"], length: int | None = None, condition: Condition | None = None
    ) -> Latents:
        return Latents(torch.cat([self.semantic(image).values, self.pixels(image).values], -1))

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        return self.semantic.num_latents(size)
