"""The decoder of VFMTok (arXiv 2507.08441): one transformer makes a map for the pixels, and features of another net."""

from collections.abc import Sequence

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.decoders.base import WholeDecoder
from imtok.decoders.cnn import CNNDecoder
from imtok.nn.grid import grid_size
from imtok.nn.initialization import Start, start_weights
from imtok.nn.positions import Grid, GridPositions
from imtok.nn.transformer import BlockStyle, Transformer
from imtok.nn.visibility import visibility


class FeatureDecoder(WholeDecoder):
    """Mask tokens behind the latents become a map, which a CNN makes an image of; others become features.

    Features are made in training alone, for an alignment whose ``source`` is ``decoder.features``. Both kinds of mask
    tokens pass the same blocks, each on its own, with the same class token and the same positions. A token sees itself
    and those before it: the latents, the class token, then the mask tokens row by row.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        num_latents: Latents per image; the builder sets it to the encoder's.
        image_size: Side of the images that the positions are for, in pixels; the builder sets it.
        feature_dim: Width of the features.
        factor: Pixels of the image per feature, along each side. Positions are resized for the pixels' map.
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Attention heads of each.
        hidden: Hidden width of their gated MLPs.
        channels: Channels of the CNN at full resolution.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first; one level more doubles
            the pixels per mask token.
        blocks: Residual blocks per level.
        start: How weights of the transformer start (``imtok.nn.initialization``).
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.
        position_offset: See ``offset`` of :class:`imtok.nn.positions.GridPositions`.
        groups: Number of groups in each norm of maps; None = 32, and fewer if there are fewer than 128 channels.

    Raises:
        ValueError: If the image size is no multiple of ``factor``; in ``forward``, for latents of another number, a
            mask, or an image that the CNN does not fill, and in training one that the features do not.

    Example:
        >>> sizes = {"width": 16, "depth": 1, "heads": 2, "hidden": 32, "channels": 8, "multipliers": (1, 1, 2)}
        >>> decoder = FeatureDecoder(in_dim=6, num_latents=9, image_size=32, feature_dim=10, factor=8, **sizes)
        >>> decoder(torch.randn(1, 9, 6), size=(32, 32)).shape
        torch.Size([1, 3, 32, 32])
    """

    def __init__(
        self,
        in_dim: int,
        num_latents: int,
        image_size: int,
        feature_dim: int = 1024,
        factor: int = 14,
        width: int = 512,
        depth: int = 6,
        heads: int = 8,
        hidden: int = 1368,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        start: Start = "xavier",
        checkpoint: bool = False,
        position_offset: float = 0.0,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        std = width**-0.5
        self.num_latents, self.factor = num_latents, factor
        self.embed = nn.Linear(in_dim, width)
        self.latent_positions = nn.Parameter(torch.randn(num_latents, width) * std)
        self.class_token = nn.Parameter(torch.randn(1, width) * std)
        self.class_position = nn.Parameter(torch.randn(1, width) * std)
        self.mask_token = nn.Parameter(torch.randn(1, width) * std)
        self.feature_token = nn.Parameter(torch.randn(1, width) * std)
        grid = grid_size((image_size, image_size), factor)
        self.positions = GridPositions(grid, width, factor, interpolate=True, std=std, offset=position_offset)
        self.norm_in = nn.LayerNorm(width)
        self.feature_norm = nn.LayerNorm(width)
        style = BlockStyle(mlp="swiglu", mlp_ratio=hidden / width)
        self.trunk = Transformer(width, depth, heads, style, checkpoint=checkpoint)
        self.features = nn.Linear(width, feature_dim)
        for part in (self.trunk, self.features):
            start_weights(part, start)
        self.cnn = CNNDecoder(
            width,
            channels,
            multipliers,
            blocks,
            attention="none",
            middle=("residual", "attention", "residual"),
            latent_channels=None,
            groups=groups,
        )

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return self.cnn.last_layer

    @override
    def decode(self, latents: Float[Tensor, "b n d"], size: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
        if latents.shape[1] != self.num_latents:
            raise ValueError(f"latents must be {self.num_latents} for this decoder, got {latents.shape[1]}")
        memory = self.norm_in(self.embed(latents) + self.latent_positions)
        pixels = self._filled(memory, self.mask_token, self.norm_in, grid_size(size, self.cnn.factor))
        image = self.cnn(pixels, size)
        if not self.training:
            return image
        told = self._filled(memory, self.feature_token, self.feature_norm, grid_size(size, self.factor))
        # times 0: ranks wait for the gradient of every parameter, also where no loss reads the features
        return image + 0 * self.features(told).mean()

    def _filled(
        self, memory: Float[Tensor, "b n d"], mask: Float[Tensor, "1 d"], norm: nn.Module, grid: Grid
    ) -> Float[Tensor, "b m d"]:
        """What mask tokens on a grid have become, row by row."""
        learned = torch.cat([self.class_token + self.class_position, mask + self.positions(grid)])
        normed = repeat(norm(learned), "m d -> b m d", b=memory.shape[0]).to(memory.dtype)
        tokens = torch.cat([memory, normed], 1)
        visible = visibility([tokens.shape[1]], [["causal"]]).to(tokens.device)
        return self.trunk(tokens, visible)[:, memory.shape[1] + 1 :]
