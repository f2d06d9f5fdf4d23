"""One of several processes that measure together; ``test_metric_ranks.py`` compares them with one."""

import json
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from imtok.measures.code_statistics import CodeUsage, PositionUsage
from imtok.measures.frechet import FeatureStatistics, FrechetDistance
from imtok.measures.inception_score import InceptionScore
from imtok.measures.kid import KID
from imtok.measures.lpips import LPIPS
from imtok.measures.precision_recall import PrecisionRecall
from imtok.measures.rows import FeatureRows

IMAGES, DIM = 60, 12


def shares(world: int, empty: bool) -> list[Tensor]:
    """Which images each of ``world`` processes measures: unequal numbers, or none at all for one of them."""
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(4))
    busy = world - 1 if empty else world
    cuts = [IMAGES * part * part // (busy * busy) for part in range(busy + 1)]
    parts = [order[cuts[part] : cuts[part + 1]] for part in range(busy)]
    return [order[:0], *parts] if empty else parts


def measure(mine: Tensor) -> dict[str, float | list[float]]:
    """Everything that is measured of images, over those of all processes, of which ``mine`` are this one's."""
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(IMAGES, DIM, generator=generator, dtype=torch.float64)
    features = 0.8 * target + 0.3 * torch.randn(IMAGES, DIM, generator=generator, dtype=torch.float64)
    pixels, truth = torch.randint(256, (2, IMAGES, 3, 32, 32), generator=generator).to(torch.uint8)
    ids = torch.randint(0, 9, (IMAGES, 5, 2), generator=generator)
    originals, originals_rows = FeatureStatistics(DIM), FeatureRows(DIM)
    distance = FrechetDistance(DIM, originals)
    kid, whole = KID(DIM, originals_rows, subsets=5, subset_size=20), KID(DIM, originals_rows, subset_size=None)
    score, precision = InceptionScore(DIM, splits=3), PrecisionRecall(DIM, originals_rows)
    usage, positions, lpips = CodeUsage([9, 9]), PositionUsage([9, 9], tokens=5), LPIPS("alex", backbone="random")
    for rows in mine.split(7) if len(mine) else ():
        originals.update(target[rows])
        originals_rows.update(target[rows], rows)
        distance.update(features[rows])
        for metric in (kid, whole, score, precision):
            metric.update(features[rows], rows)
        usage.update(ids[rows])
        positions.update(ids[rows])
        lpips.update(pixels[rows], truth[rows])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few images; none at all on one rank
        return {
            "count": originals.compute().count,
            "frechet": distance.compute().item(),
            **kid.compute(),
            "kid of all": whole.compute()["kid"],
            **score.compute(),
            **precision.compute(),
            "entropy": usage.compute()["entropy_bits_corrected"],
            "positions": positions.compute()["entropy_bits"].flatten().tolist(),
            "lpips": lpips.compute().item(),
        }


def run(rank: int, folder: str) -> None:
    """Measure as one of three processes, then as one of two, and write down what came out."""
    torch.set_num_threads(1)
    for world in (3, 2):
        if rank < world:
            dist.init_process_group("gloo", init_method=f"file://{folder}/meet{world}", rank=rank, world_size=world)
            outcomes = {str(empty): measure(shares(world, empty)[rank]) for empty in (False, True)}
            Path(folder, f"{world}_{rank}.json").write_text(json.dumps(outcomes))
            dist.destroy_process_group()
