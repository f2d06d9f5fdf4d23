"""The encoder of ALIT (arXiv 2411.02393): recurrent rollouts, each of which refines all tokens and adds latents."""

from typing import Literal, cast

import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.encoders.base import Encoder
from imtok.encoders.base_features import BaseFeatures
from imtok.nn.grid import grid_size
from imtok.nn.initialization import Start, start_weights
from imtok.nn.positions import GridPositions
from imtok.nn.transformer import Transformer
from imtok.spaces.base import Space, hold
from imtok.types import Condition, Latents


class ALITEncoder(Encoder):
    """The same blocks again and again, over image tokens and all latents so far; every rollout adds new latents.

    Earlier latents change with every rollout: 32 latents are not the first 32 of 64. Training may stop single image
    tokens that the decoder already predicts well (:meth:`grow`). The public code also does so when it encodes, at
    random and with the decoder's help; here encoding is deterministic and needs no decoder.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images that the positions are for, in pixels; the builder sets it.
        space: The frozen autoencoder whose features it reads; the builder sets it.
        latents: How many latents a rollout adds.
        rollouts: The most rollouts.
        width: Width of the tokens, more than the channels of the space.
        depth: Number of blocks.
        heads: Attention heads of each.
        positions: "fixed" = other image sizes are refused; "interpolated" = the positions are resized for them.
        start: How weights start (``imtok.nn.initialization``); the published "normal" is small for narrow nets.
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.

    Raises:
        ValueError: If there is no space or ``width`` leaves no channel to the pixels; in ``forward``, if ``length`` is
            no multiple of ``latents``, or the image has another size unless positions are interpolated.

    Example:
        >>> from imtok.spaces.vqgan import MAGEVQGAN
        >>> space = MAGEVQGAN(channels=16, multipliers=(1, 1, 1), blocks=1, codes=32, code_dim=8)
        >>> encoder = ALITEncoder(12, image_size=32, space=space, latents=4, rollouts=3, width=32, depth=1, heads=2)
        >>> image = torch.rand(1, 3, 32, 32) * 2 - 1
        >>> encoder(image).values.shape, encoder(image, length=8).values.shape
        (torch.Size([1, 12, 12]), torch.Size([1, 8, 12]))
    """

    budgeted = True

    def __init__(
        self,
        out_dim: int,
        image_size: int,
        space: Space | None,
        latents: int = 32,
        rollouts: int = 8,
        width: int = 1024,
        depth: int = 8,
        heads: int = 8,
        positions: Literal["fixed", "interpolated"] = "fixed",
        start: Start = "normal",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        std = width**-0.5
        self.base = BaseFeatures(space, width)
        hold(self, cast(Space, space))
        self.latents = latents
        self.rollouts = rollouts
        grid = grid_size((image_size, image_size), self.base.factor)
        self.class_token = nn.Parameter(torch.randn(1, width) * std)
        self.class_position = nn.Parameter(torch.randn(1, width) * std)
        self.positions = GridPositions(grid, width, self.base.factor, positions == "interpolated", std)
        self.missing = nn.Parameter(torch.randn(1, width) * std)
        self.queries = nn.Parameter(torch.randn(latents, width) * std)
        self.query_positions = nn.Parameter(torch.randn(latents, width) * std)
        self.times = nn.Parameter(torch.randn(rollouts, latents, width) * std)
        self.norm_in = nn.LayerNorm(width)
        self.trunk = Transformer(width, depth, heads, checkpoint=checkpoint)
        self.norm_grow = nn.LayerNorm(width)
        self.norm_out = nn.LayerNorm(width)
        self.project = nn.Linear(width, out_dim)
        start_weights(self.trunk, start)
        start_weights(self.project, start)

    @override
    def forward(
        self, image: Float[Tensor, "b 3 h w"], length: int | None = None, condition: Condition | None = None
    ) -> Latents:
        rollouts = self._rollouts(length)
        size = (image.shape[-2], image.shape[-1])
        tokens = self.start(image)
        for rollout in range(rollouts):
            if rollout:
                tokens = self.grow(tokens, size, rollout)
            tokens = self.trunk(tokens)
        return Latents(self.read(tokens, rollouts))

    def start(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Class token, image tokens and the first latents, before the first rollout."""
        positions = self.positions(grid_size((image.shape[-2], image.shape[-1]), self.base.factor))
        patches = F.normalize(torch.cat(self.base(image), -1), dim=-1) + positions
        first = repeat(self.class_token + self.class_position, "n d -> b n d", b=image.shape[0]).to(patches.dtype)
        return self.norm_in(torch.cat([first, patches, self._fresh(0, patches)], 1))

    def grow(
        self,
        tokens: Float[Tensor, "b n d"],
        size: tuple[int, int],
        rollout: int,
        halted: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b n2 d"]:
        """Add the latents of the next rollout.

        Args:
            tokens: What the trunk made of them in the rollout before.
            size: Height and width of the image, in pixels.
            rollout: Index of the next rollout, from 1.
            halted: True where an image token is taken out, in training; a learned vector stands for it, at its
                position. None = none of them.
        """
        missing = self.missing + self.positions(grid_size(size, self.base.factor))
        if halted is None:
            halted = torch.zeros(1, len(missing), dtype=torch.bool, device=tokens.device)
        image = tokens[:, 1 : 1 + len(missing)]
        # Always in the graph, so that DDP sees a gradient of it in every step.
        image = torch.where(halted[..., None], missing.to(image.dtype), image)
        parts = [tokens[:, :1], image, tokens[:, 1 + len(missing) :], self._fresh(rollout, tokens)]
        return self.norm_grow(torch.cat(parts, 1))

    def read(self, tokens: Float[Tensor, "b n d"], rollouts: int) -> Float[Tensor, "b n2 d2"]:
        """The latents after so many rollouts."""
        return self.project(self.norm_out(tokens[:, -rollouts * self.latents :]))

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        self.positions(grid_size(size, self.base.factor))
        return self.rollouts * self.latents

    def _rollouts(self, length: int | None) -> int:
        if length is None:
            return self.rollouts
        if length % self.latents or not 1 <= length // self.latents <= self.rollouts:
            raise ValueError(
                f"length must be a multiple of {self.latents} up to {self.rollouts * self.latents}, as rollouts make "
                f"latents, got {length}"
            )
        return length // self.latents

    def _fresh(self, rollout: int, like: Tensor) -> Float[Tensor, "b n d"]:
        fresh = self.queries + self.query_positions + self.times[rollout]
        return repeat(fresh, "n d -> b n d", b=like.shape[0]).to(like.dtype)
