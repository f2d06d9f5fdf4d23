"""docs/stand_in.png: the offline stand-in against blur, noise and JPEG on the bundled photographs.

    python benchmarks/stand_in.py            # some minutes on two CPU cores

Needs `pip install -e '.[offline]'`.
"""

import argparse
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from imtok.data.sources.photos import Photos
from imtok.extractors.efflite0 import EffLite0
from imtok.measures.codecs import compress
from imtok.measures.frechet import FeatureStatistics, FrechetDistance
from imtok.measures.psnr import PSNR

SIDE, BATCH = 128, 32
LEVELS = {"blur": (0.5, 1, 1.5, 2, 3), "noise": (4, 8, 16, 32, 64), "jpeg": (75, 50, 30, 15, 5)}
NAMES = {"blur": "blur, sigma in pixels", "noise": "noise, sigma in levels", "jpeg": "JPEG, quality"}


def degrade(kind: str, level: float, images: Tensor) -> Tensor:
    """The images, made worse."""
    if kind == "blur":
        return gaussian_blur(images, 2 * round(4 * level) + 1, level)
    if kind == "noise":
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        return (images.float() + level * noise).clamp(0, 255).round().byte()
    return torch.stack([compress(image, "jpeg", round(level))[0] for image in images])


def distance(extractor: EffLite0, originals: FeatureStatistics, images: Tensor) -> float:
    """Of one set of images to the originals."""
    metric = FrechetDistance(extractor.dim, originals)
    for part in images.split(BATCH):
        metric.update(extractor(part).features)
    return float(metric.compute())


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "stand_in.png")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="a Fréchet distance over")
    tiles = Photos().evaluation(SIDE, "all")
    chosen = [index * len(tiles) // arguments.images for index in range(arguments.images)]
    images = torch.stack([image for index in chosen if (image := tiles[0, index].image) is not None])
    extractor, originals = EffLite0(), FeatureStatistics(EffLite0.dim)
    for part in images.split(BATCH):
        originals.update(extractor(part).features)
    found: dict[str, list[float]] = {}
    for kind, levels in LEVELS.items():
        found[kind] = []
        for level in levels:
            worse = degrade(kind, level, images)
            psnr = PSNR()
            psnr.update(worse, images)
            found[kind].append(distance(extractor, originals, worse))
            quality = f"PSNR {float(psnr.compute()):.2f} dB"
            print(f"{kind:6} {level:5g}  fd_efflite0_224 {found[kind][-1]:7.2f}  {quality}", flush=True)
        rising = all(before < after for before, after in pairwise(found[kind]))
        print(f"{kind}: {'rises at every step' if rising else 'DOES NOT RISE'}", flush=True)
    draw(found, len(images), arguments.out)


def draw(found: dict[str, list[float]], images: int, path: Path) -> None:
    """A panel per kind, all on one scale."""
    figure = Figure(figsize=(9, 3.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(LEVELS), sharey=True)
    for axes, (kind, levels) in zip(panels, LEVELS.items(), strict=True):
        axes.plot([f"{level:g}" for level in levels], found[kind], marker="o", color="#1f4e79")
        axes.set_xlabel(NAMES[kind])
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set(ylabel=f"fd_efflite0_224, {images} images", ylim=(0, 1.05 * max(map(max, found.values()))))
    figure.savefig(path)


if __name__ == "__main__":
    main()
