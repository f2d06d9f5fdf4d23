"""The trunk of TiTok's decoders (arXiv 2406.07550): mask tokens read the latents in one transformer."""

from collections.abc import Sequence
from typing import Literal, TypedDict

import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from imtok.decoders.base import Decoder
from imtok.nn.grid import grid_size
from imtok.nn.initialization import Start, start_weights
from imtok.nn.positions import GridPositions
from imtok.nn.text import check_text, text_rows
from imtok.nn.transformer import Transformer
from imtok.nn.visibility import hide_keys
from imtok.types import Condition


class TrunkSettings(TypedDict, total=False):
    """The arguments of :class:`MaskTokenDecoder` that decoders take by ``**trunk`` and hand on."""

    width: int
    depth: int
    heads: int
    flexible: bool
    positions: Literal["fixed", "interpolated"]
    start: Start
    checkpoint: bool


class TextTrunkSettings(TrunkSettings, total=False):
    """These and the arguments of a trunk that can read text and whose patches are its own."""

    patch_size: int
    context_dim: int
    context_length: int
    text_dim: int | None
    text_length: int | None
    value_range: Sequence[float]


class MaskTokenDecoder(Decoder):
    """The trunk: a class token, a mask token per patch, latents and, last, text see each other in every block.

    Latents that were not kept are absent: a shorter sequence, or tokens that nobody sees, which is the same.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images that the positions are for, in pixels; the builder sets it.
        num_latents: The most latents that it decodes; the builder sets it.
        patch_size: Side of the patch that a mask token stands for, in pixels.
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Attention heads of each.
        flexible: Whether it also decodes fewer latents; they are learned only if a regulariser drops some.
        latent_positions: "learned", or "none" = the order of the latents means nothing (TokenSet).
        context_dim: Width of the text features that it reads; 0 = it reads none.
        context_length: The most text tokens.
        text_dim: Width of those that the condition gives; the builder sets it. None = it gives none.
        text_length: How many of them it gives; the builder sets it. None = it gives none.
        positions: Of the mask tokens: "fixed" = other image sizes are refused; "interpolated" = resized for them.
        value_range: Of the pixels that the net writes.
        start: How weights start (``imtok.nn.initialization``); the published "normal" is small for narrow nets.
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.

    Raises:
        ValueError: If the image size is no multiple of ``patch_size``, or the condition's text has other sizes than
            ``context_dim`` says; in ``features``, if latents, size or text do not fit.
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
        flexible: bool = False,
        latent_positions: Literal["learned", "none"] = "learned",
        context_dim: int = 0,
        context_length: int = 77,
        text_dim: int | None = None,
        text_length: int | None = None,
        positions: Literal["fixed", "interpolated"] = "fixed",
        value_range: Sequence[float] = (0.0, 1.0),
        start: Start = "normal",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        std = width**-0.5
        grid = grid_size((image_size, image_size), patch_size)
        self.flexible = flexible
        self.num_latents = num_latents
        self.patch_size, self.width = patch_size, width
        self.start: Start = start
        self.value_range = (value_range[0], value_range[1])
        self.embed = nn.Linear(in_dim, width)
        # Nothing is read from the class token, but published weights hold it, and its position beside it.
        self.class_token = nn.Parameter(torch.randn(1, width) * std)
        self.class_position = nn.Parameter(torch.randn(1, width) * std)
        self.mask_token = nn.Parameter(torch.randn(1, width) * std)
        self.positions = GridPositions(grid, width, patch_size, positions == "interpolated", std)
        self.latent_positions = (
            nn.Parameter(torch.randn(num_latents, width) * std) if latent_positions == "learned" else None
        )
        check_text(context_dim, context_length, text_dim, text_length)
        if context_dim:
            self.embed_context = nn.Linear(context_dim, width)
            self.context_positions = nn.Parameter(torch.randn(context_length, width) * std)
            self.missing_context = nn.Parameter(torch.zeros(context_dim))
        self.takes = self.needs = ("text",) if context_dim else ()
        self.norm_in = nn.LayerNorm(width)
        self.trunk = Transformer(width, depth, heads, checkpoint=checkpoint)
        self.norm_out = nn.LayerNorm(width)
        start_weights(self, start)

    def features(
        self,
        latents: Float[Tensor, "b n d"],
        size: tuple[int, int],
        keep: Bool[Tensor, "b n"] | None = None,
        condition: Condition | None = None,
    ) -> Float[Tensor, "b m c2"]:
        """What the mask tokens have become, row by row. Arguments as ``forward``."""
        self._check(latents.shape[1], keep)
        patches = self.positions(grid_size(size, self.patch_size)) + self.mask_token
        embedded = self.embed(latents)
        if self.latent_positions is not None:
            embedded = embedded + self.latent_positions[: latents.shape[1]]
        learned = torch.cat([self.class_token + self.class_position, patches])
        segments = [repeat(learned, "n d -> b n d", b=latents.shape[0]).to(embedded.dtype), embedded]
        if self.takes:
            segments.append(self._text(condition, embedded))
        tokens = torch.cat(segments, 1)
        tokens = self.trunk(self.norm_in(tokens), None if keep is None else _visible(keep, segments))
        return self.norm_out(tokens[:, 1 : 1 + len(patches)])

    def _check(self, count: int, keep: Tensor | None) -> None:
        if self.flexible and not 1 <= count <= self.num_latents:
            raise ValueError(f"latents must be between 1 and {self.num_latents} for this decoder, got {count}")
        if not self.flexible and count != self.num_latents:
            raise ValueError(f"latents must be {self.num_latents} for this decoder, got {count}")
        self.require_all(keep)

    def _text(self, condition: Condition | None, like: Float[Tensor, "b n d"]) -> Float[Tensor, "b l d"]:
        """The text tokens. A learned vector stands for one that says nothing, and for all that can be without text."""
        text = text_rows(condition, self.missing_context, len(self.context_positions), like)
        return (self.embed_context(text) + self.context_positions[: text.shape[1]]).to(like.dtype)


def _visible(keep: Bool[Tensor, "b n"], segments: Sequence[Tensor]) -> Bool[Tensor, "b m m"]:
    """Everybody sees everything but the latents that were not kept."""
    before, _, *after = (segment.shape[1] for segment in segments)
    present = F.pad(keep, (before, sum(after)), value=True)
    return hide_keys(None, present).expand(-1, present.shape[1], -1)
