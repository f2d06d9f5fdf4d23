"""AliTok's decoders (arXiv 2506.05289): a causal one, with which tokens are learnt, and one that sees all of them."""

from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.decoders.base import WholeDecoder
from imtok.nn.exact import exact
from imtok.nn.grid import grid_size
from imtok.nn.initialization import Start, start_weights
from imtok.nn.patches import from_patches
from imtok.nn.transformer import Transformer
from imtok.nn.visibility import visibility
from imtok.pixels import from_range

Order = Literal["causal", "full"]


class PatchPixels(nn.Module):
    """A linear map of each token to the pixels of its patch, a 1 x 1 convolution of colours, and a sigmoid.

    Args:
        width: Width of the tokens.
        patch_size: Side of a patch, in pixels.
        channels: Of the image.
        value_range: Between which values pixels lie before they become those of an image in ``[-1, 1]``.
    """

    def __init__(self, width: int, patch_size: int, channels: int, value_range: Sequence[float]) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.value_range = (value_range[0], value_range[1])
        self.pixels = nn.Linear(width, channels * patch_size**2)
        self.conv_out = nn.Conv2d(channels, channels, 1)

    @override
    def forward(self, tokens: Float[Tensor, "b n d"], rows: int) -> Float[Tensor, "b c h w"]:
        grid = (rows, tokens.shape[1] // rows)
        image = self.conv_out(from_patches(self.pixels(tokens), grid, self.patch_size))
        return from_range(exact(image).sigmoid(), self.value_range)  # bfloat16 has few levels of grey


class AliTokDecoder(WholeDecoder):
    """Class tokens and latents in one transformer; the last latents become the patches, row by row.

    Where ``order`` is "causal", each patch is made of the class tokens, the latents before its own and its own. The
    first latents stand for no patch. In training their tokens write patches, too (``prefix``), which
    ``AliTokObjective`` compares with the first patch and the first row of the image.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images, in pixels; the builder sets it.
        num_latents: How many latents an image has; the builder sets it.
        patch_size: Side of a patch, in pixels.
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Attention heads of each.
        order: "causal" = a token sees those before it and itself; "full" = it sees all.
        class_tokens: Learned tokens in front of the latents.
        value_range: Of the pixels that the net writes, between which a sigmoid keeps them.
        start: How weights start (``imtok.nn.initialization``).
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If there is no such ``order``, there are fewer latents than patches, or the image size is no
            multiple of ``patch_size``; in ``forward``, for another image size or number of latents, or if some were
            not kept.

    Example:
        >>> decoder = AliTokDecoder(8, 32, 21, patch_size=8, width=32, depth=1, heads=2, class_tokens=2)
        >>> decoder(torch.randn(1, 21, 8), size=(32, 32)).shape
        torch.Size([1, 3, 32, 32])
    """

    def __init__(
        self,
        in_dim: int,
        image_size: int,
        num_latents: int,
        patch_size: int = 16,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        order: Order = "full",
        class_tokens: int = 32,
        value_range: Sequence[float] = (0.0, 1.0),
        start: Start = "normal",
        checkpoint: bool = False,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        if order not in get_args(Order):
            raise ValueError(f"order must be one of {', '.join(get_args(Order))}, got {order!r}")
        self.rows, self.columns = grid_size((image_size, image_size), patch_size)
        patches = self.rows * self.columns
        self.before = num_latents - patches
        if class_tokens < 0:
            raise ValueError(f"class_tokens must not be negative, got {class_tokens}")
        if self.before < 0:
            raise ValueError(f"latents must be at least the {patches} patches, got {num_latents}")
        self.image_size = image_size
        self.num_latents = num_latents
        self.embed = nn.Linear(in_dim, width)
        self.class_tokens = nn.Parameter(torch.randn(class_tokens, width) * width**-0.5)
        self.positions = nn.Parameter(torch.randn(class_tokens + num_latents, width) * width**-0.5)
        self.norm_in = nn.LayerNorm(width)
        self.trunk = Transformer(width, depth, heads, checkpoint=checkpoint)
        self.norm_out = nn.LayerNorm(width)
        self.patches = PatchPixels(width, patch_size, image_channels, value_range)
        written = order == "causal" and self.before > 0
        self.prefix = PatchPixels(width, patch_size, image_channels, value_range) if written else None
        self.order: Order = order
        start_weights(self, start)

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return cast(nn.Parameter, self.patches.conv_out.weight)

    @override
    def decode(self, latents: Float[Tensor, "b n d"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        side = self.image_size
        if size != (side, side):
            raise ValueError(f"image size must be {side} x {side} for this decoder, got {size[0]} x {size[1]}")
        if latents.shape[1] != self.num_latents:
            raise ValueError(f"latents must be {self.num_latents} for this decoder, got {latents.shape[1]}")
        embedded = self.embed(latents)
        first = repeat(self.class_tokens, "n d -> b n d", b=latents.shape[0]).to(embedded.dtype)
        tokens = self.norm_in(torch.cat([first, embedded], 1) + self.positions)
        visible = visibility([tokens.shape[1]], [["causal"]]).to(tokens.device) if self.order == "causal" else None
        read = self.norm_out(self.trunk(tokens, visible)[:, len(self.class_tokens) :])
        if self.prefix is not None and self.training:
            self.prefix(read[:, : self.before], 1)
        return self.patches(read[:, self.before :], self.rows)
