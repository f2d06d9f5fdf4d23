"""Crops and mirror images of tokens, by the adapter of ``imtok adapt`` (SeiT++, arXiv 2312.10105)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from typing_extensions import override

from imtok.classifiers.adapter import TokenAdapter
from imtok.classifiers.augment import Augmentation
from imtok.classifiers.embedded import CodebookEmbedding, Embedded


class TokenAdapt(Augmentation):
    """Crops and mirrors images as tokens, by an adapter that ``imtok adapt`` has trained.

    Args:
        weights: The run folder of imtok adapt. Its store must have the same codebook.
        probability: Probability that an image is changed.
        scale: Smallest and largest area of a crop, as shares of the image.
        flip: Probability that a changed image is mirrored.

    Raises:
        ValueError: If an argument is out of range.
        InputError: If there is no adapter in the folder.
    """

    def __init__(self, weights: str, probability: float, scale: Sequence[float], flip: float) -> None:
        if not (0 <= probability <= 1 and 0 <= flip <= 1):
            raise ValueError(f"probability and flip must lie in [0, 1], got {probability} and {flip}")
        if not 0 < scale[0] <= scale[-1] <= 1:
            raise ValueError(f"scale must be two shares in (0, 1], the smaller one first, got {list(scale)}")
        self.adapter = TokenAdapter.load(weights)
        self.weights, self.probability, self.scale, self.flip = weights, probability, scale, flip

    @override
    def meet(self, embedding: CodebookEmbedding, grid: tuple[int, int]) -> None:
        own = self.adapter.embedding
        if not embedding.same_rows(own) or grid != self.adapter.grid:
            raise ValueError(
                f"the adapter in {self.weights} learnt from tokens of another codebook, or of another grid "
                f"({self.adapter.grid[0]} x {self.adapter.grid[1]}); train one on a store of this tokenizer"
            )
        self.mean, self.deviation = (embedding.mean - own.mean) / own.deviation, embedding.deviation / own.deviation

    @override
    @torch.no_grad()
    def __call__(self, images: Embedded) -> Embedded:
        count, device = len(images.vectors), images.vectors.device
        if not bool(images.seen.all()):
            raise ValueError("a part that crops tokens needs all tokens of an image; leave out adapt, or put it first")
        # The window of each image: its area, its place, and whether it is mirrored.
        area = torch.empty(count).uniform_(self.scale[0], self.scale[-1])
        side = area.sqrt()
        top, left = torch.rand(2, count) * (1 - side)
        mirrored = torch.rand(count) < self.flip
        scale, start = torch.where(mirrored, -side, side), torch.where(mirrored, left + side, left)
        chosen = (torch.rand(count) < self.probability).to(device)[:, None, None]
        rows, columns = (side.to(device), top.to(device)), (scale.to(device), start.to(device))
        # Into the adapter's own vectors, and back.
        net, mean, deviation = self.adapter.net.to(device), self.mean.to(device), self.deviation.to(device)
        maps = (images.vectors * deviation + mean).transpose(1, 2).unflatten(2, images.grid)  # b d h w
        changed = (net(maps, rows, columns).flatten(2).transpose(1, 2) - mean) / deviation  # b n d
        return replace(images, vectors=torch.where(chosen, changed.to(images.vectors.dtype), images.vectors))
