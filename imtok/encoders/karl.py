"""The encoder of KARL (arXiv 2507.07995): one pass that is told the wanted quality and says which latents it needs."""

from typing import Literal, cast

import torch
from einops import repeat
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from imtok.encoders.base import Encoder
from imtok.encoders.base_features import BaseFeatures
from imtok.nn.grid import grid_size
from imtok.nn.initialization import Start, start_weights
from imtok.nn.sampled_positions import SampledPositions
from imtok.nn.transformer import Transformer
from imtok.spaces.base import Space, hold
from imtok.types import Condition, Latents

# Mean absolute errors of pixels in [0, 1], one embedding each.
ERRORS = (
    0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.09, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.24, 0.28, 0.32, 0.38,
)  # fmt: skip


class KARLEncoder(Encoder):
    """Blocks over a token of the wanted error, image tokens and as many latents as the budget allows.

    A second head gives each latent a chance to be superfluous; where it is above ``halt_above`` the latent is not
    kept. Every latent sees the budget and the wanted error: 64 latents are not the first 64 of 256.

    ``length`` is the budget; ``condition.quality`` the wanted mean absolute error of each image, of pixels in [0, 1].
    The public code draws budgets of up to 368 latents in one of its two passes and keeps 512 of everything, though
    it never asks for more than 256; here there are ``latents`` of everything and no budget above.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images that it is trained on, in pixels; the builder sets it.
        space: The frozen autoencoder whose features it reads; the builder sets it.
        latents: The largest budget.
        width: Width of the tokens, more than the channels of the space.
        depth: Number of blocks.
        heads: Attention heads of each.
        error: What is wanted where no quality is given: mean absolute error of pixels in [0, 1].
        halt_above: Chance above which a latent is not kept.
        positions: "fixed" = other image sizes are refused; "interpolated" = they are read off the map too.
        start: How weights start (``imtok.nn.initialization``); the published "normal" is small for narrow nets.
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.

    Raises:
        ValueError: If there is no space or ``width`` leaves no channel to the pixels; in ``forward``, if ``length`` or
            the wanted errors are out of range, or the image has another size unless positions are interpolated.

    Example:
        >>> from imtok.spaces.vqgan import MAGEVQGAN
        >>> from imtok.types import Condition
        >>> space = MAGEVQGAN(channels=16, multipliers=(1, 1, 1), blocks=1, codes=32, code_dim=8)
        >>> encoder = KARLEncoder(12, image_size=32, space=space, latents=16, width=32, depth=1, heads=2)
        >>> image, wanted = torch.rand(1, 3, 32, 32) * 2 - 1, Condition(quality=torch.tensor([0.07]))
        >>> latents = encoder(image, length=8, condition=wanted)
        >>> latents.values.shape, latents.keep.shape
        (torch.Size([1, 8, 12]), torch.Size([1, 8]))
    """

    takes = ("quality",)
    budgeted = True
    errors: Tensor

    def __init__(
        self,
        out_dim: int,
        image_size: int,
        space: Space | None,
        latents: int = 256,
        width: int = 1024,
        depth: int = 8,
        heads: int = 8,
        error: float = 0.05,
        halt_above: float = 0.75,
        positions: Literal["fixed", "interpolated"] = "fixed",
        start: Start = "normal",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        std = width**-0.5
        self.base = BaseFeatures(space, width)
        hold(self, cast(Space, space))
        self.error = error
        self.halt_above = halt_above
        grid = grid_size((image_size, image_size), self.base.factor)
        self.positions = SampledPositions(grid, width, self.base.factor, positions == "interpolated", std=std)
        self.queries = nn.Parameter(torch.randn(latents, width) * std)
        self.register_buffer("errors", torch.tensor(ERRORS), persistent=False)
        self.wanted = nn.Parameter(repeat(torch.tensor(ERRORS), "n -> n d", d=width).clone())
        self.norm_in = nn.LayerNorm(width)
        self.trunk = Transformer(width, depth, heads, checkpoint=checkpoint)
        self.norm_out = nn.LayerNorm(width)
        self.project = nn.Linear(width, out_dim)
        self.halting = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 512), nn.Tanh(), nn.Linear(512, 1))
        for part in (self.trunk, self.project, self.halting):
            start_weights(part, start)

    @override
    def forward(
        self, image: Float[Tensor, "b 3 h w"], length: int | None = None, condition: Condition | None = None
    ) -> Latents:
        wanted = None if condition is None else condition.quality
        if wanted is None:
            wanted = torch.full((image.shape[0],), self.error, device=image.device)
        if wanted.shape != (image.shape[0],):
            raise ValueError(f"quality must be a wanted error for each image, {image.shape[0]}, got {len(wanted)}")
        latents, superfluous = self.judge(image, length, self.level(wanted))
        return Latents(latents, self.keep(superfluous))

    def judge(
        self, image: Float[Tensor, "b 3 h w"], length: int | None, level: Int64[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n"]]:
        """The latents, and the log odds that each of them is superfluous.

        Args:
            image: In ``[-1, 1]``.
            length: The budget; None = the largest.
            level: Index of the wanted error among ``errors``, for each image.
        """
        budget = len(self.queries) if length is None else length
        if not 1 <= budget <= len(self.queries):
            raise ValueError(f"length must lie in [1, {len(self.queries)}] latents, got {budget}")
        positions = self.positions(grid_size((image.shape[-2], image.shape[-1]), self.base.factor))
        frozen, trained = self.base(image)
        patches = torch.cat([trained, frozen], -1) + positions
        queries = repeat(self.queries[:budget], "n d -> b n d", b=image.shape[0]).to(patches.dtype)
        tokens = torch.cat([self.wanted[level][:, None].to(patches.dtype), patches, queries], 1)
        read = self.trunk(self.norm_in(tokens))[:, -budget:]
        return self.project(self.norm_out(read)), self.halting(read)[..., 0]

    def level(self, error: Float[Tensor, " b"]) -> Int64[Tensor, " b"]:
        """Index of the least of ``errors`` that is not below ``error``; that of the largest where all are."""
        # Through float32, so that an error of exactly 0.01 is that of the table in any type.
        levels = torch.searchsorted(self.errors, error.detach().float().to(self.errors.dtype))
        return levels.clamp(max=len(self.errors) - 1)

    def keep(self, superfluous: Float[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
        """Which latents are transmitted, given the log odds that they are superfluous."""
        return superfluous.sigmoid() <= self.halt_above

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        self.positions(grid_size(size, self.base.factor))
        return len(self.queries)
