"""AliTok's encoder (arXiv 2506.05289): a latent token for each patch, and some more in front of them."""

from collections.abc import Sequence

import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from imtok.encoders.titok import TiTokEncoder
from imtok.nn.grid import grid_size, to_sequence
from imtok.nn.initialization import Start
from imtok.pixels import to_range


class AliTokEncoder(TiTokEncoder):
    """TiTok's encoder without its class token; patches and latent tokens see each other in every block.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images, in pixels; the builder sets it.
        prefix: Latent tokens in front of those of the patches: one for the first patch and a row of them.
        patch_size: Side of a patch, in pixels.
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Attention heads of each.
        value_range: Of the pixels that the net computes with.
        start: How weights start (``imtok.nn.initialization``).
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If ``prefix`` is negative or the image size no multiple of ``patch_size``; in ``forward`` and
            ``num_latents``, for images of another size.

    Example:
        >>> encoder = AliTokEncoder(out_dim=8, image_size=32, prefix=5, patch_size=8, width=32, depth=1, heads=2)
        >>> encoder(torch.rand(1, 3, 32, 32) * 2 - 1).values.shape
        torch.Size([1, 21, 8])
    """

    def __init__(
        self,
        out_dim: int,
        image_size: int,
        prefix: int = 17,
        patch_size: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        value_range: Sequence[float] = (0.0, 1.0),
        start: Start = "normal",
        checkpoint: bool = False,
        image_channels: int = 3,
    ) -> None:
        if prefix < 0:
            raise ValueError(f"prefix must not be negative, got {prefix}")
        rows, columns = grid_size((image_size, image_size), patch_size)
        super().__init__(
            out_dim,
            image_size,
            rows * columns + prefix,
            patch_size,
            width,
            depth,
            heads,
            value_range=value_range,
            start=start,
            checkpoint=checkpoint,
            image_channels=image_channels,
        )
        del self.class_token, self.class_position

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        if grid_size(size, self.patch_size) != self.positions.grid:
            rows, columns = (side * self.patch_size for side in self.positions.grid)
            raise ValueError(f"image size must be {rows} x {columns} for this encoder, got {size[0]} x {size[1]}")
        return len(self.latents)

    @override
    def sequence(
        self, image: Float[Tensor, "b c h w"], visible: Bool[Tensor, "m m"] | None = None
    ) -> Float[Tensor, "b m d"]:
        self.num_latents((image.shape[-2], image.shape[-1]))
        positions = self.positions(self.positions.grid)
        patches = to_sequence(self.patches(to_range(image, self.value_range))) + positions
        assert self.latent_positions is not None, "as in __init__"
        last = repeat(self.latents + self.latent_positions, "n d -> b n d", b=image.shape[0]).to(patches.dtype)
        return self.trunk(self.norm_in(torch.cat([patches, last], 1)), visible)
