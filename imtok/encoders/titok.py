"""The encoder of TiTok (arXiv 2406.07550): learned latent tokens read an image's patches in one transformer."""

from collections.abc import Sequence
from typing import Literal, TypedDict, get_args

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.encoders.base import ImageEncoder
from imtok.nn.grid import grid_size, to_sequence
from imtok.nn.initialization import Start, start_weights
from imtok.nn.positions import GridPositions
from imtok.nn.transformer import Transformer
from imtok.pixels import to_range

LatentLayout = Literal["tokens", "legacy_view"]


class TiTokSettings(TypedDict, total=False):
    """The arguments of :class:`TiTokEncoder` that encoders take by ``**titok`` and hand on."""

    patch_size: int
    width: int
    depth: int
    heads: int
    positions: Literal["fixed", "interpolated"]
    value_range: Sequence[float]
    start: Start
    checkpoint: bool
    image_channels: int


class TiTokEncoder(ImageEncoder):
    """A class token, patches and latent tokens see each other in every block; the latent tokens become the latents.

    Also the encoder of TA-TiTok (arXiv 2501.07730), One-D-Piece (arXiv 2501.10064) and TokenSet (arXiv 2503.16425), and
    with ``branches`` that of ImageFolder (arXiv 2410.01756): a sequence of latent tokens for each branch of a product
    quantizer, at the same positions, told apart by learned levels; the latents stand side by side in channels.

    The published L-32, B-64 and S-128, One-D-Piece and TokenSet read the buffer of latent tokens ``b n d`` as if it
    were ``b d n`` before they map it to the codes' width. Each of their latents mixes channels of all latent tokens,
    so none of them belongs to one token; weights that were trained so need ``latent_layout="legacy_view"``.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images that the positions are for, in pixels; the builder sets it.
        latents: Number of latent tokens, in each branch.
        patch_size: Side of a patch, in pixels.
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Attention heads of each.
        latent_layout: "tokens" = each latent is a linear map of its own token; "legacy_view", see above.
        branches: Sequences of latent tokens; each fills as many channels of ``out_dim``, the first the first.
        latent_positions: "learned", or "none" = nothing but the latent tokens themselves tells them apart (TokenSet).
        positions: Of the patches: "fixed" = other image sizes are refused; "interpolated" = resized for them.
        value_range: Of the pixels that the net computes with; [0, 1] in all published ones.
        start: How weights start (``imtok.nn.initialization``); the published "normal" is small for narrow nets.
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If an argument has no such choice, the image size is no multiple of ``patch_size`` or ``out_dim``
            none of ``branches``; in ``forward`` and ``num_latents``, for images of another size unless positions are
            interpolated.

    Example:
        >>> encoder = TiTokEncoder(out_dim=12, image_size=64, latents=8, width=32, depth=1, heads=2)
        >>> encoder(torch.rand(1, 3, 64, 64) * 2 - 1).values.shape
        torch.Size([1, 8, 12])
    """

    def __init__(
        self,
        out_dim: int,
        image_size: int,
        latents: int = 32,
        patch_size: int = 16,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        latent_layout: LatentLayout = "tokens",
        branches: int = 1,
        latent_positions: Literal["learned", "none"] = "learned",
        positions: Literal["fixed", "interpolated"] = "fixed",
        value_range: Sequence[float] = (0.0, 1.0),
        start: Start = "normal",
        checkpoint: bool = False,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        if latent_layout not in get_args(LatentLayout):
            raise ValueError(f"latent_layout must be one of {', '.join(get_args(LatentLayout))}, got {latent_layout!r}")
        if branches < 1 or out_dim % branches:
            raise ValueError(f"branches must be a divisor of the latents' width {out_dim}, got {branches}")
        if branches > 1 and latent_layout != "tokens":
            raise ValueError(f"latent_layout must be tokens where there are {branches} branches, got {latent_layout!r}")
        std = width**-0.5
        grid = grid_size((image_size, image_size), patch_size)
        self.patch_size = patch_size
        self.latent_layout = latent_layout
        self.branches = branches
        self.value_range = (value_range[0], value_range[1])
        self.patches = nn.Conv2d(image_channels, width, patch_size, stride=patch_size)
        # Nothing is read from the class token, but published weights hold it, and its position beside it.
        self.class_token = nn.Parameter(torch.randn(1, width) * std)
        self.class_position = nn.Parameter(torch.randn(1, width) * std)
        self.positions = GridPositions(grid, width, patch_size, positions == "interpolated", std)
        self.latents = nn.Parameter(torch.randn(branches * latents, width) * std)
        self.latent_positions = (
            nn.Parameter(torch.randn(latents, width) * std) if latent_positions == "learned" else None
        )
        # One for what is seen of the image and one for each branch.
        self.levels = nn.Parameter(torch.randn(1 + branches, width) * std) if branches > 1 else None
        self.norm_in = nn.LayerNorm(width)
        self.trunk = Transformer(width, depth, heads, checkpoint=checkpoint)
        self.norm_out = nn.LayerNorm(width)
        self.project = nn.Linear(width, out_dim // branches)
        start_weights(self, start)

    @override
    def encode(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        read = self.norm_out(self.sequence(image)[:, -len(self.latents) :])
        if self.latent_layout == "legacy_view":
            read = rearrange(rearrange(read, "b n d -> b (n d)"), "b (d n) -> b n d", n=len(self.latents))
        return rearrange(self.project(read), "b (k n) d -> b n (k d)", k=self.branches)

    def sequence(
        self, image: Float[Tensor, "b c h w"], visible: Bool[Tensor, "m m"] | None = None
    ) -> Float[Tensor, "b m d"]:
        """What the trunk makes of class token, patches and latent tokens; ``visible`` = who sees whom, None = all."""
        positions = self.positions(grid_size((image.shape[-2], image.shape[-1]), self.patch_size))
        patches = to_sequence(self.patches(to_range(image, self.value_range))) + positions
        first, latents = self.class_token + self.class_position, self.latents
        if self.latent_positions is not None:
            latents = latents + self.latent_positions.repeat(self.branches, 1)
        if self.levels is not None:
            first, patches = first + self.levels[0], patches + self.levels[0]
            latents = latents + repeat(self.levels[1:], "k d -> (k n) d", n=len(latents) // self.branches)
        first, last = (repeat(part, "n d -> b n d", b=image.shape[0]).to(patches.dtype) for part in (first, latents))
        return self.trunk(self.norm_in(torch.cat([first, patches, last], 1)), visible)

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        self.positions(grid_size(size, self.patch_size))
        return len(self.latents) // self.branches
