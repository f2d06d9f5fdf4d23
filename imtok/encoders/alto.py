"""The encoder of ALTo (arXiv 2505.16495): causal latents, of which each image gets as many as it needs."""

from typing import NamedTuple, Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from imtok.encoders.titok import TiTokEncoder, TiTokSettings
from imtok.nn.length import Chunk, LengthPredictor
from imtok.nn.visibility import visibility
from imtok.types import Condition, Latents


class Predicted(NamedTuple):
    """All latents of each image, and which of them are taken."""

    values: Float[Tensor, "b n d"]
    chunk: Chunk


class ALToEncoder(TiTokEncoder):
    """TiTok's encoder with latents that see the image and those before them, and a predictor of their number.

    The first k latents are therefore the same whether more are made or not. The image sees no latent. The class token
    asks how many latents are needed (:class:`imtok.nn.length.LengthPredictor`).

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images that the positions are for, in pixels; the builder sets it.
        latents: Number of latents at most.
        **titok: As of :class:`~imtok.encoders.titok.TiTokEncoder`.

    Raises:
        ValueError: As :class:`~imtok.encoders.titok.TiTokEncoder` does; in ``forward``, for a length out of range.

    Example:
        >>> encoder = ALToEncoder(12, image_size=64, latents=8, width=32, depth=1, heads=2)
        >>> latents = encoder(torch.rand(1, 3, 64, 64) * 2 - 1)
        >>> latents.values.shape, latents.keep.shape
        (torch.Size([1, 8, 12]), torch.Size([1, 8]))
    """

    visible: Bool[Tensor, "m m"]

    def __init__(self, out_dim: int, image_size: int, latents: int = 32, **titok: Unpack[TiTokSettings]) -> None:
        super().__init__(out_dim, image_size, latents, **titok)
        self.predictor = LengthPredictor(self.project.in_features)

    def predicted(self, image: Float[Tensor, "b c h w"]) -> Predicted:
        """All latents, and how many of them each image needs."""
        count = len(self.latents)
        seen = 1 + (image.shape[-2] // self.patch_size) * (image.shape[-1] // self.patch_size)
        visible = visibility([seen, count], [["full", "none"], ["full", "causal"]]).to(image.device)
        tokens = self.sequence(image, visible)
        latents = self.norm_out(tokens[:, -count:])
        return Predicted(self.project(latents), self.predictor(latents, self.norm_out(tokens[:, 0])))

    @override
    def forward(
        self, image: Float[Tensor, "b c h w"], length: int | None = None, condition: Condition | None = None
    ) -> Latents:
        if length is not None and not 1 <= length <= len(self.latents):
            raise ValueError(f"length must lie in [1, {len(self.latents)}] latents, got {length}")
        values, chunk = self.predicted(image)
        if length is not None:
            return Latents(values[:, :length])
        return Latents(values, torch.arange(values.shape[1], device=values.device) < chunk.length[:, None])
