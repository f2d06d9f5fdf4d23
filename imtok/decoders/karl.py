"""The decoder of KARL (arXiv 2507.07995): mask tokens read the latents that were kept, and score MAGE's codes."""

from collections.abc import Sequence
from typing import Literal

import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.decoders.codes import CodeDecoder
from imtok.nn.grid import grid_size
from imtok.nn.initialization import Start, start_weights
from imtok.nn.sampled_positions import SampledPositions
from imtok.nn.transformer import Transformer
from imtok.nn.visibility import hide_keys
from imtok.pretrained import RANDOM
from imtok.spaces.vqgan import read_mage
from imtok.types import Condition


class KARLDecoder(CodeDecoder):
    """Each mask token scores the codes at its position; the mean code that these scores expect becomes pixels.

    Latents that were not kept are seen by nobody. The public code lays the masks of a batch out in another order than
    its attention reads them, so that images use each other's masks; here each image has its own.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images that it is trained on, in pixels; the builder sets it.
        num_latents: The most latents that it decodes; the builder sets it.
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Attention heads of each.
        positions: "fixed" = other image sizes are refused; "interpolated" = they are read off the map too.
        weights: Path of MAGE's ``vqgan_jax_strongaug.ckpt``, for codebook and convolutions, or "random".
        channels: Channels of the convolutions at full resolution.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first. One level more doubles
            the pixels per code: 5 levels are 16 x 16 pixels, as published.
        blocks: Residual blocks per level.
        codes: Number of codes.
        code_dim: Width of the codes.
        start: How weights start (``imtok.nn.initialization``); the published "normal" is small for narrow nets.
        checkpoint: Compute transformer blocks again in the backward pass instead of keeping their activations.

    Raises:
        ValueError: If the image size is no multiple of the pixels per code; in ``forward`` and ``logits``, if latents
            or size do not fit.

    Example:
        >>> decoder = KARLDecoder(in_dim=12, image_size=64, num_latents=8, width=32, depth=1, heads=2, channels=16)
        >>> keep = torch.tensor([[True, False, True, True]])
        >>> decoder(torch.randn(1, 4, 12), size=(64, 64), keep=keep).shape
        torch.Size([1, 3, 64, 64])
    """

    flexible = True
    files = ("vqgan_jax_strongaug.ckpt",)
    read = staticmethod(read_mage)

    def __init__(
        self,
        in_dim: int,
        image_size: int,
        num_latents: int,
        width: int = 1024,
        depth: int = 8,
        heads: int = 8,
        positions: Literal["fixed", "interpolated"] = "fixed",
        weights: str | None = RANDOM,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        codes: int = 1024,
        code_dim: int = 256,
        start: Start = "normal",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        std = width**-0.5
        self.weights = weights
        self.patch_size = 2 ** (len(multipliers) - 1)
        grid = grid_size((image_size, image_size), self.patch_size)
        self.embed = nn.Linear(in_dim, width)
        self.latent_positions = nn.Parameter(torch.randn(num_latents, width) * std)
        self.mask_token = nn.Parameter(torch.randn(1, width) * std)
        self.positions = SampledPositions(grid, width, self.patch_size, positions == "interpolated", std=std)
        self.norm_in = nn.LayerNorm(width)
        self.trunk = Transformer(width, depth, heads, checkpoint=checkpoint)
        self.norm_out = nn.LayerNorm(width)
        self.head = nn.Sequential(nn.Linear(width, 2 * width), nn.Tanh(), nn.Linear(2 * width, codes))
        start_weights(self, start)
        self.add_codes(codes, code_dim, channels, multipliers, blocks)

    @override
    def logits(
        self,
        latents: Float[Tensor, "b n d"],
        size: tuple[int, int],
        keep: Bool[Tensor, "b n"] | None = None,
        condition: Condition | None = None,
    ) -> Float[Tensor, "b m v"]:
        count, most = latents.shape[1], len(self.latent_positions)
        if not 1 <= count <= most:
            raise ValueError(f"latents must be between 1 and {most} for this decoder, got {count}")
        patches = self.mask_token + self.positions(grid_size(size, self.patch_size))
        embedded = self.embed(latents) + self.latent_positions[:count]
        masks = repeat(patches, "n d -> b n d", b=latents.shape[0]).to(embedded.dtype)
        tokens = torch.cat([masks, embedded], 1)
        visible = None
        if keep is not None:
            visible = hide_keys(None, F.pad(keep, (len(patches), 0), value=True)).expand(-1, tokens.shape[1], -1)
        tokens = self.trunk(self.norm_in(tokens), visible)
        return self.head(self.norm_out(tokens[:, : len(patches)]))
