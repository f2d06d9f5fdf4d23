"""CutMix (arXiv 1905.04899) on the grid of tokens, as SeiT's Token-CutMix (arXiv 2303.11114)."""

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor
from typing_extensions import override

from imtok.classifiers.augment import Augmentation
from imtok.classifiers.embedded import Embedded


class CutMix(Augmentation):
    """Puts a box of another image's tokens into an image. The classes are mixed as the tokens that are seen are.

    The share of the box is drawn from a beta distribution, in whole tokens, and its place so that it lies inside.
    Tokens without a grid are mixed by a stretch of their sequence.

    Args:
        probability: That an image is mixed.
        alpha: Of the beta distribution; 1 = all shares are as likely.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, probability: float, alpha: float) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must lie in [0, 1], got {probability}")
        if alpha <= 0:
            raise ValueError(f"alpha must be positive, got {alpha}")
        self.probability, self.alpha = probability, alpha

    @override
    def __call__(self, images: Embedded) -> Embedded:
        count, device = len(images.vectors), images.vectors.device
        shares = torch.distributions.Beta(self.alpha, self.alpha).sample((count,))
        shares = shares.where(torch.rand(count) < self.probability, torch.zeros(count))
        box, other = boxes(shares, images.grid).to(device), torch.randperm(count, device=device)
        seen = torch.where(box, images.seen[other], images.seen)
        theirs = (seen & box).sum(1) / seen.sum(1).clamp(min=1)
        return replace(
            images,
            vectors=torch.where(box[..., None], images.vectors[other], images.vectors),
            seen=seen,
            targets=torch.lerp(images.targets, images.targets[other], theirs[:, None].to(images.targets.dtype)),
        )


def boxes(shares: Tensor, grid: tuple[int, int]) -> Bool[Tensor, "b n"]:
    """A box for each share of the tokens of a grid, at a place that is drawn; False = outside.

    Args:
        shares: In [0, 1], one for each image.
        grid: Rows and columns; the box has the shape of the grid, and of a single row it is a stretch.
    """
    rows, columns = grid
    side = shares if min(grid) == 1 else shares.sqrt()
    along = list[Tensor]()
    for length in (rows, columns):
        wide = (side * length).round() if length > 1 else (shares > 0).to(side.dtype)
        first = (torch.rand(len(shares)) * (length - wide + 1)).floor().clamp(max=length - 1)
        place = torch.arange(length)
        along.append((place >= first[:, None]) & (place < (first + wide)[:, None]))
    return (along[0][:, :, None] & along[1][:, None, :]).flatten(1)
