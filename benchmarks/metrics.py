"""Time of the Fréchet distance against scipy's sqrtm, of a whole evaluation, and rise of the stand-in.

    python benchmarks/metrics.py frechet          # a minute; nuclear norm against sqrtm, of 2048-d statistics, in turns
    python benchmarks/metrics.py evaluation --images 1000 --side 256  # minutes; scoring PNGs against features alone
    python benchmarks/metrics.py standin          # some minutes; efflite0 against blur, noise and JPEG

Needs `pip install -e '.[bench,offline]'`.
"""

import argparse
import io
import itertools
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from imtok.measures.frechet import FeatureGaussian, FeatureStatistics, frechet_distance

DIM, IMAGES = 2048, 4096


def sqrtm_form(first: FeatureGaussian, second: FeatureGaussian) -> float:
    """As pytorch-fid and ADM's evaluator compute it."""
    import scipy.linalg

    product = (first.covariance @ second.covariance).numpy()
    root = np.real(np.asarray(scipy.linalg.sqrtm(product)))
    shift = (first.mean - second.mean).square().sum().item()
    return shift + (first.covariance.trace() + second.covariance.trace()).item() - 2 * float(np.trace(root))


def frechet(repeats: int, threads: int) -> None:
    """Both forms in turns on the same statistics; medians and their ratio."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(DIM, DIM, generator=generator) / DIM**0.5
    sides: list[tuple[int, Tensor, Tensor]] = []
    for shift in (0.0, 0.01):
        metric = FeatureStatistics(DIM)
        for _ in range(IMAGES // 512):
            metric.update(torch.randn(512, DIM, generator=generator) @ mixing + shift)
        gaussian = metric.compute()
        sides.append((gaussian.count, gaussian.mean, gaussian.covariance))
    forms: dict[str, Callable[[FeatureGaussian, FeatureGaussian], float]] = {
        "nuclear norm": lambda first, second: frechet_distance(first, second).item(),
        "scipy sqrtm": sqrtm_form,
    }
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    processor: dict[str, list[float]] = {name: [] for name in forms}
    values: dict[str, float] = {}
    for _ in range(repeats):
        for name, form in forms.items():
            first, second = (FeatureGaussian(*side) for side in sides)  # anew: a Gaussian keeps its root
            start, busy = time.perf_counter(), time.process_time()
            values[name] = form(first, second)
            seconds[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - busy)
    for name in forms:
        wall, used = statistics.median(seconds[name]), statistics.median(processor[name])
        print(f"{name:14} {wall:7.2f} s  {used:7.2f} s of processor  value {values[name]:.12f}")
    for what, times in (("wall", seconds), ("processor", processor)):
        ratio = statistics.median(times["scipy sqrtm"]) / statistics.median(times["nuclear norm"])
        print(f"{what} time, sqrtm over ours: {ratio:.1f}")


def evaluation(repeats: int, images: int, side: int, threads: int) -> None:
    """Scoring stored images with efflite0, in turns with nothing but its forward passes on decoded images."""
    from torchvision.transforms.v2.functional import to_pil_image

    from imtok.data.sources.photos import Photos
    from imtok.measures.frechet import FEW_IMAGES
    from imtok.measures.generated import score
    from imtok.measures.protocol import Protocol
    from imtok.measures.stored import stored_images

    torch.set_num_threads(threads)
    data = Photos(crops_per_photo=-(-max(images, FEW_IMAGES) // 9)).train(side, seed=0)
    protocol = Protocol("offline")
    extractor = protocol.build()
    clocks: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
    sides = ("features alone", "scoring an npz", "scoring PNGs")
    spent: dict[str, dict[str, list[float]]] = {clock: {side: [] for side in sides} for clock in clocks}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a thousand images are few
        logging.getLogger("imtok").setLevel(logging.ERROR)
        stored, reference = Path(folder) / "images", Path(folder) / "reference.npz"
        stored.mkdir()
        sums = FeatureStatistics(extractor.dim)  # over enough images for a metric not to warn, as references are
        for start in range(0, FEW_IMAGES, 64):
            batch = torch.stack([data[0, index].image for index in range(start, min(start + 64, FEW_IMAGES))])
            sums.update(extractor(batch).features)
        gaussian = sums.compute()
        np.savez(reference, mu=gaussian.mean.numpy(), sigma=gaussian.covariance.numpy())
        for index in range(images):
            to_pil_image(data[0, index].image).save(stored / f"{index:06}.png")
        decoded = list(stored_images(stored, 64))
        array = Path(folder) / "images.npz"
        np.savez(array, arr_0=torch.cat(decoded).permute(0, 2, 3, 1).numpy())

        def features() -> None:
            for part in decoded:
                extractor(part)

        ways: tuple[Callable[[], object], ...] = (
            features,
            lambda: score(array, reference, protocol),
            lambda: score(stored, reference, protocol),
        )
        for _ in range(repeats):
            for side, way in zip(sides, ways, strict=True):
                started = {clock: read() for clock, read in clocks.items()}
                way()
                for clock, read in clocks.items():
                    spent[clock][side].append(read() - started[clock])
    for clock, seconds in spent.items():
        for side in sides:
            ratios = [whole / alone for whole, alone in zip(seconds[side], seconds[sides[0]], strict=True)]
            print(
                f"{clock}: {side} of {images} images {statistics.median(seconds[side]):.1f} s, ratio "
                f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
            )


def standin(images: int, side: int, threads: int) -> None:
    """The stand-in's distance between crops of the bundled photographs and their damaged copies."""
    from PIL import Image
    from torchvision.transforms.v2.functional import gaussian_blur, pil_to_tensor, to_pil_image

    from imtok.data.sources.photos import Photos
    from imtok.extractors.efflite0 import EffLite0

    torch.set_num_threads(threads)
    data = Photos(crops_per_photo=-(-images // 9)).train(side, seed=0)
    crops = torch.stack([data[0, index].image for index in range(images)])
    extractor = EffLite0()

    def measure(levels: Tensor) -> FeatureGaussian:
        metric = FeatureStatistics(extractor.dim)
        for part in levels.split(32):
            metric.update(extractor(part).features)
        return metric.compute()

    def blur(sigma: float) -> Tensor:
        return gaussian_blur(crops, [25, 25], [sigma, sigma])

    def noise(sigma: float) -> Tensor:
        grain = sigma * torch.randn(crops.shape, generator=torch.Generator().manual_seed(0))
        return (crops + grain).round().clamp(0, 255).to(torch.uint8)

    def jpeg(quality: float) -> Tensor:
        copies: list[Tensor] = []
        for image in crops:
            file = io.BytesIO()
            to_pil_image(image).save(file, "JPEG", quality=int(quality))
            copies.append(pil_to_tensor(Image.open(file)))
        return torch.stack(copies)

    original = measure(crops)
    print(f"{extractor.distance}, {images} crops of {side} x {side} pixels")
    for name, damage, grades in (
        ("blur, sigma", blur, (0.5, 1, 1.5, 2, 3)),
        ("noise, sigma", noise, (2, 4, 8, 16, 32, 64)),
        ("JPEG, quality", jpeg, (95, 75, 50, 30, 15, 5)),
    ):
        values = [frechet_distance(original, measure(damage(grade))).item() for grade in grades]
        rises = all(before < after for before, after in itertools.pairwise(values))
        points = "  ".join(f"{grade}: {value:.1f}" for grade, value in zip(grades, values, strict=True))
        print(f"{name:14} {points}  {'rises' if rises else 'DOES NOT RISE'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["frechet", "evaluation", "standin"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=198, help="of evaluation and standin")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*disp argument")
    if given.what == "frechet":
        frechet(given.repeats, given.threads)
    elif given.what == "evaluation":
        evaluation(given.repeats, given.images, given.side, given.threads)
    else:
        standin(given.images, given.side, given.threads)
