"""Holistic tokens beside the patches of a CNN, informed by frozen features (Hita, arXiv 2507.02358)."""

from typing import Literal, Unpack

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.encoders.base import ImageEncoder
from imtok.encoders.cnn import CNNEncoder
from imtok.nn.attention import SelfAttention
from imtok.nn.convolution import CNNSize
from imtok.nn.grid import grid_size, to_sequence
from imtok.nn.positions import GridPositions
from imtok.nn.transformer import BlockStyle, Transformer
from imtok.nn.visibility import visibility
from imtok.spaces.base import Space, hold
from imtok.spaces.dino import DINOv2


class HitaEncoder(ImageEncoder):
    """Learned queries, features of a frozen net and the patches of a CNN talk; queries and patches become latents.

    In a first trunk all tokens see all others. Then the frozen features are left behind, and a second trunk is causal
    over queries and patches, in this order. Latents come in the same order: holistic ones, then the patches row by row.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images, in pixels; the builder sets it.
        space: The frozen net; the builder gives it. Hita has DINOv2 with its class token; any other gives its map.
        latents: Holistic latents per image.
        patch_dim: Width of the patches' latents, at most ``out_dim``; zeros fill the rest. None = ``out_dim``.
        width: Width of the trunks, and channels of the CNN's map.
        depth: Blocks of each trunk.
        heads: Attention heads.
        mlp_ratio: Hidden width of the blocks' gated MLP over ``width``.
        positions: "fixed" = images of ``image_size`` only; "interpolated" = positions of the patches are resized.
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.
        **cnn: Size of the CNN, as in :class:`~imtok.encoders.cnn.CNNEncoder`.

    Raises:
        ValueError: If ``patch_dim`` exceeds ``out_dim``; in ``forward`` and ``num_latents``, for images of a size that
            it cannot read.

    Example:
        >>> space = DINOv2(width=32, depth=1, heads=2, side=28)
        >>> encoder = HitaEncoder(12, 32, space, latents=4, width=32, depth=1, heads=2, channels=8)
        >>> encoder(torch.rand(1, 3, 32, 32) * 2 - 1).values.shape
        torch.Size([1, 8, 12])
    """

    space: Space

    def __init__(
        self,
        out_dim: int,
        image_size: int,
        space: Space,
        latents: int = 128,
        patch_dim: int | None = 8,
        width: int = 512,
        depth: int = 3,
        heads: int = 8,
        mlp_ratio: float = 1368 / 512,
        positions: Literal["fixed", "interpolated"] = "fixed",
        checkpoint: bool = False,
        **cnn: Unpack[CNNSize],
    ) -> None:
        super().__init__()
        if patch_dim is not None and not 1 <= patch_dim <= out_dim:
            raise ValueError(f"patch_dim must be in [1, {out_dim}], the width of the latents, got {patch_dim}")
        hold(self, space)
        self.latents = latents
        self.out_dim = out_dim
        self.cnn = CNNEncoder(width, latent_channels=None, **cnn)
        self.embed = nn.Sequential(
            nn.Linear(space.dim, width, bias=False),
            nn.LayerNorm(width),
            nn.ReLU(),
            nn.Linear(width, width, bias=False),
            nn.LayerNorm(width),
        )
        self.queries = nn.Parameter(torch.randn(latents, width) * width**-0.5)
        grid = grid_size((image_size, image_size), self.cnn.factor)
        self.positions = GridPositions(
            grid, width, self.cnn.factor, interpolate=positions == "interpolated", std=width**-0.5
        )
        style = BlockStyle(mlp="swiglu", mlp_ratio=mlp_ratio)
        self.norm_all = nn.LayerNorm(width)
        self.trunk_all = Transformer(width, depth, heads, style, checkpoint=checkpoint)
        for module in self.trunk_all.modules():
            if isinstance(module, SelfAttention):
                module.query_key_value.register_parameter("bias", None)  # the published one has none in this trunk
        self.norm_causal = nn.LayerNorm(width)
        self.trunk_causal = Transformer(width, depth, heads, style, checkpoint=checkpoint)
        self.project_queries = nn.Linear(width, out_dim)
        self.project_patches = nn.Linear(width, patch_dim or out_dim)

    @override
    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        positions = self.positions(grid_size((image.shape[-2], image.shape[-1]), self.cnn.factor))
        patches = self.cnn(image).values + positions
        queries = repeat(self.queries, "n d -> b n d", b=image.shape[0])
        tokens = self.trunk_all(self.norm_all(torch.cat([queries, self.embed(self._features(image)), patches], 1)))
        tokens = torch.cat([tokens[:, : self.latents], tokens[:, -patches.shape[1] :]], 1)
        causal = visibility([tokens.shape[1]], [["causal"]]).to(tokens.device)
        tokens = self.trunk_causal(self.norm_causal(tokens), causal)
        latents = self.project_patches(tokens[:, self.latents :])
        latents = F.pad(latents, (0, self.out_dim - latents.shape[-1]))
        return torch.cat([self.project_queries(tokens[:, : self.latents]), latents], 1)

    def _features(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        if isinstance(self.space, DINOv2):
            return self.space.remembered(image)
        return to_sequence(self.space.maps(image))

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        grid = grid_size(size, self.cnn.factor)
        return self.latents + len(self.positions(grid))
