"""Several passes through the quantizer in one training step."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from imtok.quantizers.statistics import merge_stats
from imtok.types import Loss, Quantized


def together(parts: Sequence[Quantized]) -> Quantized:
    """The last of several passes, with the statistics and losses of all: sums, each loss shown as its mean.

    Args:
        parts: What the quantizer returned in each pass, with the same names of losses and statistics.
    """
    last = parts[-1]
    losses = {
        name: Loss(torch.stack([part.losses[name].value for part in parts]).mean(), weight * len(parts))
        for name, (_, weight) in last.losses.items()
    }
    stats: dict[str, Tensor] = {}
    for part in parts:
        merge_stats(stats, part.stats)
    return replace(last, losses=losses, stats=stats)
