"""Images per second of imtok's data path beside torchvision's ImageFolder, over the same files, in one run.

    python benchmarks/data.py [--images 640] [--rounds 5] [--workers 0 2] [--out docs/benchmarks-data.md]

Both decode, crop and resize the same JPEGs to uint8 batches; what differs is how a sample is found, checked and
drawn. Rounds alternate between the two, so that a slower minute of the machine is shared; the table shows medians.
"""

import argparse
import io
import os
import platform
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, InterpolationMode, PILToTensor, RandomHorizontalFlip, RandomResizedCrop

from imtok.data.folder import Folder
from imtok.data.images import ImageSet, content_hash
from imtok.data.loader import train_loader
from imtok.data.order import TrainBatches
from imtok.data.photos import Photos
from imtok.data.webdataset import WebDataset

SIDE, BATCH, SHARDS = 256, 32, 4
Row = tuple[str, float, float]


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks-data.md"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_images(root / "files", arguments.images)
        write_shards(root / "files", root / "shards")
        sections = [table(root, arguments.images, arguments.rounds, workers) for workers in arguments.workers]
        checking = cost_of_checking(root / "files")
    text = page(arguments.images, arguments.rounds, arguments.workers, sections, checking)
    arguments.out.write_text(text)
    print(text)


def write_images(folder: Path, number: int) -> None:
    """JPEGs of 500 x 375 pixels and about 50 kB, as ImageNet's are: crops of the bundled photographs."""
    crops = Photos(crops_per_photo=-(-number // 9), scale=(0.3, 1.0)).train(500, 0)
    for index in range(number):
        sample = crops[0, index * 7 % len(crops)]
        assert sample.image is not None
        path = folder / f"{index % 10}" / f"{index:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.image[:, :375].permute(1, 2, 0).numpy()).save(path, quality=90)


def write_shards(images: Path, folder: Path) -> None:
    """The same files in tar archives."""
    folder.mkdir()
    paths = sorted(images.rglob("*.jpg"))
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:03d}.tar", "w") as archive:
            for path in paths[shard::SHARDS]:
                data = path.read_bytes()
                member = tarfile.TarInfo(path.name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def table(root: Path, images: int, rounds: int, workers: int) -> list[Row]:
    """Name, median images per second and median ratio to ImageFolder in the same round."""
    steps = images // BATCH
    readers: dict[str, Callable[[], Iterable[object]]] = {
        "torchvision ImageFolder + DataLoader": lambda: plain(root / "files", workers),
        "imtok folder": lambda: ours(Folder(root / "files").train(SIDE, 0), steps, workers),
        "imtok folder, with index": lambda: ours(
            Folder(root / "files", index=root / "files.index").train(SIDE, 0), steps, workers
        ),
        "imtok shards": lambda: ours(WebDataset(root / "shards").train(SIDE, 0), steps, workers),
        "imtok shards, with index": lambda: ours(
            WebDataset(root / "shards", index=root / "shards.index").train(SIDE, 0), steps, workers
        ),
    }
    speeds: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(rounds + 1):  # the first one warms caches and makes the indexes
        for name, reader in readers.items():
            speed = images_per_second(reader())
            if turn:
                speeds[name].append(speed)
    first = next(iter(speeds.values()))
    return [
        (name, statistics.median(own), statistics.median(a / b for a, b in zip(own, first, strict=True)))
        for name, own in speeds.items()
    ]


def plain(folder: Path, workers: int) -> Iterable[object]:
    """What one would write without imtok, with the same area of crops."""
    transform = Compose(
        [
            RandomResizedCrop(
                SIDE, scale=(0.48, 0.75), ratio=(1.0, 1.0), interpolation=InterpolationMode.BICUBIC, antialias=True
            ),
            RandomHorizontalFlip(),
            PILToTensor(),
        ]
    )
    return DataLoader(
        ImageFolder(str(folder), transform),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )


def ours(images: object, steps: int, workers: int) -> Iterable[object]:
    """The training loader of a run."""
    assert isinstance(images, ImageSet)
    return train_loader(images, TrainBatches(len(images), 0, BATCH, total_steps=steps), workers)


def images_per_second(loader: Iterable[object]) -> float:
    """Over one epoch, the start of the workers included."""
    start, batches = time.perf_counter(), 0
    for _ in loader:
        batches += 1
    return batches * BATCH / (time.perf_counter() - start)


def cost_of_checking(folder: Path) -> tuple[float, float]:
    """Microseconds to hash an image's bytes, and their mean number."""
    source = Folder(folder).evaluation(SIDE)
    assert isinstance(source, ImageSet)
    encoded = [source.source.read(place) for place in range(min(400, len(source)))]
    times = []
    for data in encoded * 5:
        start = time.perf_counter()
        content_hash(data)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6, statistics.mean(map(len, encoded))


def page(images: int, rounds: int, workers: list[int], sections: list[list[Row]], checking: tuple[float, float]) -> str:
    """The results as Markdown."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "pillow"))
    lines = [
        "# Speed of the data path",
        "",
        f"Images per second from {images} JPEGs of 500 x 375 pixels to uint8 batches of {BATCH} x 3 x {SIDE} x {SIDE}, "
        "random crop, bicubic with antialiasing, mirrored. The crops of both have the same areas on average.",
        f"Medians of {rounds} rounds; in a round every reader runs once over all images, one after the other, start of "
        "the workers included. The ratio is the median over rounds of the speed by ImageFolder's in the same round.",
        f"{os.cpu_count()} CPU cores ({platform.machine()}), one thread per process, files in the page cache; "
        f"{packages}. Written by `python benchmarks/data.py`.",
    ]
    for number, rows in zip(workers, sections, strict=True):
        lines += ["", f"## {number} workers", "", "| reader | images/s | ratio |", "|---|---:|---:|"]
        lines += [f"| {name} | {speed:.0f} | {ratio:.2f} |" for name, speed, ratio in rows]
    cost, size = checking
    lines += ["", f"To hash an image ({size / 1000:.0f} kB on average) for the check of an index takes {cost:.1f} us."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
