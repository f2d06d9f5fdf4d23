"""What painting images in one colour would give: the PSNR that a tokenizer must beat before its tokens say anything."""

import torch
from einops import rearrange
from jaxtyping import Float64, Int64, Real
from torch import Tensor
from typing_extensions import override

from imtok.distributed import sum_over_ranks
from imtok.measures.base import EvaluationBatch, ImageMeasure, MeasureResult
from imtok.measures.inference import Size
from imtok.measures.psnr import PSNR
from imtok.measures.quantity import declared
from imtok.tokenizer import Tokenizer

_UNIT = 2.0**-32  # sums of integers do not depend on their order; see imtok.measures.mean
_STEPS = torch.arange(16, 256, 32)


def colours(channels: int) -> Int64[Tensor, "colours c"]:
    """Evenly over all of so many channels: 512 of three."""
    return torch.cartesian_prod(*[_STEPS] * channels).reshape(-1, channels)


class PSNRMeasure(ImageMeasure):
    """The PSNR, and beside it the PSNR of images without any detail."""

    quantities = declared(PSNR)

    def __init__(self) -> None:
        super().__init__(PSNR())
        self.flat = Flat()

    @override
    def start(self, tokenizer: Tokenizer, size: Size) -> None:
        self.flat.start(tokenizer.channels)

    @override
    def update(self, seen: EvaluationBatch) -> None:
        super().update(seen)
        self.flat.update(seen.target.cpu())

    @override
    def finish(self) -> MeasureResult:
        found = super().finish()
        found.tables["flat"] = self.flat.finish()
        return found


class Flat:
    """The PSNR of painting all images in one colour, the best of 512, and of painting each in its own mean colour.

    Both are averaged as the PSNR of reconstructions is. The first takes no bits and the second takes 24 of each image.
    They are no numbers of the tokenizer, so they stand among the tables, as ``flat``.
    """

    def __init__(self) -> None:
        self.totals = torch.zeros(0, dtype=torch.int64)  # the last one is that of own mean colours
        self.count = torch.zeros((), dtype=torch.int64)

    def start(self, channels: int) -> None:
        """Begin to count images of so many channels; a rank without any image has to know, too."""
        self.totals = torch.zeros(len(colours(channels)) + 1, dtype=torch.int64)

    def update(self, target: Real[Tensor, "b c h w"]) -> None:
        """Count originals in."""
        candidates = colours(target.shape[1])
        if not len(self.totals):
            self.start(target.shape[1])
        levels = target.round().long().flatten(2)
        pixels, sums = levels.shape[-1], levels.sum(-1)
        own = (sums.double() / pixels).round().long()
        painted = torch.cat([candidates.expand(len(sums), -1, -1), rearrange(own, "b c -> b 1 c")], dim=1)
        self.totals += (_psnr(levels.square().sum((1, 2)), sums, painted, pixels) / _UNIT).round().long().sum(0)
        self.count += len(sums)

    def finish(self) -> dict[str, float]:
        """Both PSNRs, over the images of all ranks."""
        means = sum_over_ranks(self.totals).double() * _UNIT / sum_over_ranks(self.count)
        return {"one_colour": means[:-1].max().item(), "mean_of_each_image": means[-1].item()}


def _psnr(
    squares: Int64[Tensor, " b"], sums: Int64[Tensor, "b c"], colours: Int64[Tensor, "b k c"], pixels: int
) -> Float64[Tensor, "b k"]:
    """The PSNR of each image painted in each of its colours, from the sums of its levels and of their squares."""
    error = squares[:, None] + (pixels * colours.square() - 2 * colours * sums[:, None]).sum(-1)
    return (10 * torch.log10(255**2 * sums.shape[1] * pixels / error.double())).clamp(max=PSNR.most)
