"""Dead codes are drawn anew each time, and never the same ones again."""

import itertools

import pytest
import torch

from imtok.quantizers.ema_vq import EMAVQ
from imtok.quantizers.vq import VQ


@pytest.mark.parametrize(
    "quantizer",
    [
        VQ(dim=2, codebook_size=16, normalize=False, restart_below=0.5, usage_decay=0.0),
        EMAVQ(dim=2, codebook_size=16, restart_below=0.5, decay=0.0),
    ],
    ids=["vq", "ema_vq"],
)
def test_each_restart_is_another_draw_from_the_same_statistics(quantizer):
    """Codes that die time and again must not be tried in the same place each time."""
    stats = {"counts": torch.zeros(16), "sums": torch.zeros(16, 2), "errors": torch.zeros(16)}
    stats["counts"][0], stats["sums"][0], stats["errors"][0] = 100, torch.tensor([300.0, -100.0]), 200
    tables = []
    for _ in range(3):
        quantizer.update(stats)
        tables.append(quantizer.table().detach().clone()[1:])
    centre = torch.tensor([3.0, -1.0])
    for table in tables:
        assert ((table - centre).norm(dim=-1) < 6).all()  # deviation 1 in each channel
    for one, other in itertools.pairwise(tables):
        assert (one != other).all()
