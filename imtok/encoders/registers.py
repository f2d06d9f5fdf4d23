"""Causal registers that read an image coarse to fine: FlexTok (arXiv 2502.13967), Semanticist (arXiv 2503.08685)."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.encoders.base import Encoder
from imtok.nn.fixed_positions import SincosPositions
from imtok.nn.grid import grid_size
from imtok.nn.initialization import Start, start_weights
from imtok.nn.norms import token_norm
from imtok.nn.patches import to_patches
from imtok.nn.positions import GridPositions, OtherSizes
from imtok.nn.transformer import BlockStyle, Transformer
from imtok.nn.visibility import visibility
from imtok.pixels import to_range
from imtok.spaces.base import Space, hold
from imtok.types import Condition, Latents

Reads = Literal["space", "pixels"]
Table = Literal["sincos", "learned"]
LatentNorm = Literal["none", "standard"]


class RegisterEncoder(Encoder):
    """Learned registers look at the patches of an image and at the registers before them; each becomes a latent.

    Patches see each other and no register, so the first k latents are the same whether more are made or not, and
    ``forward(image, length=k)`` makes only these.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images that positions are for, in pixels.
        space: The frozen autoencoder whose maps are read; the builder passes it.
        reads: What patches are cut from: "space" = the maps of ``space`` (FlexTok), "pixels" (Semanticist).
        latents: How many registers there are.
        width: Width of the transformer.
        depth: Its number of blocks.
        heads: Attention heads; divides ``width``.
        patch_size: Side of a patch, in positions of the map or in pixels.
        style: Of the transformer's blocks; of its norm the last one is too.
        table: "sincos" = patches have fixed positions and registers are their own; "learned" = patches, registers and
            class tokens have learned positions.
        positions: Of patches. "fixed" = images of ``image_size`` only; "cropped" = smaller images take the first rows
            and columns (FlexTok); "interpolated" = the positions are resized.
        class_tokens: Learned tokens that stand before the patches and are like them.
        latent_norm: "standard" = each latent has mean 0 and (unbiased) deviation 1 over its channels; "none". Without
            it the last linear map starts at zero.
        start: How weights start (``imtok.nn.initialization``).
        value_range: Pixel values that the net takes, where it reads pixels; converted inside.
        drop_path: Probability that a sample passes a half of the last block by, in training, growing from 0.
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If an argument has no such choice or there is no space to read; in ``forward`` and
            ``num_latents``, for images of another size; in ``forward``, for a length out of range.

    Example:
        >>> encoder = RegisterEncoder(
        ...     6, image_size=32, reads="pixels", latents=8, width=16, depth=1, heads=2, patch_size=8
        ... )
        >>> image = torch.rand(1, 3, 32, 32) * 2 - 1
        >>> encoder(image).values.shape, encoder(image, length=3).values.shape
        (torch.Size([1, 8, 6]), torch.Size([1, 3, 6]))
    """

    space: Space
    visible: Bool[Tensor, "m m"]

    def __init__(
        self,
        out_dim: int,
        image_size: int,
        space: Space | None = None,
        reads: Reads = "space",
        latents: int = 256,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        patch_size: int = 2,
        style: BlockStyle | None = None,
        table: Table = "sincos",
        positions: OtherSizes = "fixed",
        class_tokens: int = 0,
        latent_norm: LatentNorm = "none",
        start: Start = "xavier",
        value_range: Sequence[float] = (-1.0, 1.0),
        drop_path: float = 0.0,
        checkpoint: bool = False,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("reads", reads, get_args(Reads)),
            ("table", table, get_args(Table)),
            ("positions", positions, get_args(OtherSizes)),
            ("latent_norm", latent_norm, get_args(LatentNorm)),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        if latents < 1:
            raise ValueError(f"latents must be at least 1, got {latents}")
        if reads == "space":
            if space is None:
                raise ValueError("reads must be 'pixels' where there is no space, got 'space'")
            hold(self, space)
        # What it reads: patches of pixels, or of the maps of a space.
        style = style or BlockStyle()
        self.reads = reads
        self.patch_size = patch_size
        self.factor = patch_size * (space.factor if space is not None and reads == "space" else 1)
        channels = space.dim if space is not None and reads == "space" else image_channels
        self.value_range = (value_range[0], value_range[1])
        self.latent_norm = latent_norm
        grid = grid_size((image_size, image_size), self.factor)
        kind = SincosPositions if table == "sincos" else GridPositions
        # Tokens: patches, class tokens and registers, each with its positions.
        self.patch_embedding = nn.Linear(patch_size**2 * channels, width)
        self.positions = kind(grid, width, self.factor, positions == "interpolated", crop=positions == "cropped")
        self.class_tokens = _learned(class_tokens, width) if class_tokens else None
        self.registers = _learned(latents, width)
        learned = table == "learned"
        self.class_positions = _learned(class_tokens, width) if learned and class_tokens else None
        self.register_positions = _learned(latents, width) if learned else None
        # The net, and what becomes of the registers.
        self.trunk = Transformer(width, depth, heads, style, drop_path=drop_path, checkpoint=checkpoint)
        self.norm = token_norm(style.norm, width, style.eps)
        self.project = nn.Linear(width, out_dim)
        self.register_buffer("visible", _visible(grid[0] * grid[1] + class_tokens, latents), persistent=False)
        start_weights(self, start)
        if latent_norm == "none":
            nn.init.zeros_(self.project.weight)

    @override
    def forward(
        self, image: Float[Tensor, "b c h w"], length: int | None = None, condition: Condition | None = None
    ) -> Latents:
        size = (image.shape[-2], image.shape[-1])
        length = self.num_latents(size) if length is None else length
        if not 1 <= length <= len(self.registers):
            raise ValueError(f"length must lie in [1, {len(self.registers)}] latents, got {length}")
        features = self.space.maps(image) if self.reads == "space" else to_range(image, self.value_range)
        patches = self.patch_embedding(to_patches(features, self.patch_size))
        seen = [patches + self.positions(grid_size(size, self.factor))]
        if self.class_tokens is not None:
            tokens = self.class_tokens if self.class_positions is None else self.class_tokens + self.class_positions
            seen.insert(0, tokens.expand(image.shape[0], -1, -1))
        registers = self.registers if self.register_positions is None else self.registers + self.register_positions
        sequence = torch.cat([*seen, registers[:length].expand(image.shape[0], -1, -1)], 1)
        total = sequence.shape[1]
        trained = len(self.visible) - len(self.registers)
        visible = self.visible if total == trained + length else _visible(total - length, length).to(image.device)
        latents = self.project(self.norm(self.trunk(sequence, visible[:total, :total])[:, -length:]))
        if self.latent_norm == "standard":
            deviation, mean = torch.std_mean(latents, -1, keepdim=True)
            latents = (latents - mean) / deviation
        return Latents(latents)

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        self.positions(grid_size(size, self.factor))
        return len(self.registers)


def _learned(count: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(count, width) * 0.02)


def _visible(seen: int, registers: int) -> Bool[Tensor, "m m"]:
    return visibility([seen, registers], [["full", "none"], ["full", "causal"]])
