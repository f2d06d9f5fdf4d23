"""Images per second and core of imtok's data path beside torchvision's and webdataset's, over the same files.

    python benchmarks/data.py [--images 640] [--rounds 5] [--workers 0 2] [--out docs/benchmarks-data.md]

All decode, crop and resize the same JPEGs. Seconds are those of the CPU, of all processes together, so that other work
on the machine changes little. Rounds alternate between the readers; the table shows medians.
"""

import argparse
import io
import os
import platform
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

import simplejpeg
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import (
    Compose,
    InterpolationMode,
    Normalize,
    PILToTensor,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToTensor,
)

from imtok.data.images import ImageSet, content_hash
from imtok.data.order.loader import train_loader
from imtok.data.order.sampler import TrainBatches
from imtok.data.sources.folder import Folder
from imtok.data.sources.photos import Photos
from imtok.data.sources.webdataset import WebDataset
from imtok.pixels import to_float
from imtok.system import keep_memory

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
    keep_memory()  # as the commands of imtok do
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_images(root / "files", arguments.images)
        write_shards(root / "files", root / "shards")
        sections = [table(root, arguments.images, arguments.rounds, workers) for workers in arguments.workers]
        checking, scaled = cost_of_checking(root / "files"), scaled_decoding(root)
    text = page(arguments.images, arguments.rounds, arguments.workers, sections, checking, scaled)
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
    """Name, median images per second and median ratio to the first reader in the same round."""
    steps = images // BATCH
    files, shards = root / "files", root / "shards"
    readers: dict[str, Callable[[], Iterable[object]]] = {
        "PIL, torchvision v1: Resize, RandomCrop, flip, ToTensor, Normalize": lambda: plain(files, workers, WHOLE),
        "PIL, torchvision v1: RandomResizedCrop, flip, ToTensor, Normalize": lambda: plain(files, workers, FLOATS),
        "PIL, torchvision v1: RandomResizedCrop, flip, PILToTensor (bytes)": lambda: plain(files, workers, BYTES),
        "webdataset with decode(pil), the second line's transforms": lambda: theirs(shards, workers, FLOATS),
        "libjpeg-turbo alone (simplejpeg), in this process": lambda: decoded(files),
        "imtok folder, to float": lambda: floats(ours(Folder(files).train(SIDE, 0), steps, workers)),
        "imtok folder (bytes)": lambda: ours(Folder(files).train(SIDE, 0), steps, workers),
        "imtok folder with crop=adm, to float": lambda: floats(
            ours(Folder(files, crop="adm").train(SIDE, 0), steps, workers)
        ),
        "imtok shards, to float": lambda: floats(ours(WebDataset(shards).train(SIDE, 0), steps, workers)),
        "imtok shards with index, to float": lambda: floats(
            ours(WebDataset(shards, index=root / "shards.index").train(SIDE, 0), steps, workers)
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


CUT = RandomResizedCrop(
    SIDE, scale=(0.48, 0.75), ratio=(1.0, 1.0), interpolation=InterpolationMode.BICUBIC, antialias=True
)  # the same area as imtok's crops on average
TO_FLOAT = (ToTensor(), Normalize([0.5] * 3, [0.5] * 3))
WHOLE = Compose(
    [Resize(SIDE, InterpolationMode.BICUBIC, antialias=True), RandomCrop(SIDE), RandomHorizontalFlip(), *TO_FLOAT]
)
FLOATS = Compose([CUT, RandomHorizontalFlip(), *TO_FLOAT])
BYTES = Compose([CUT, RandomHorizontalFlip(), PILToTensor()])


def plain(folder: Path, workers: int, transform: Compose) -> Iterable[object]:
    """What one would write without imtok."""
    return DataLoader(
        ImageFolder(str(folder), transform),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )


def theirs(folder: Path, workers: int, transform: Compose) -> Iterable[object]:
    """Webdataset's own reader and decoder."""
    shards = [str(path) for path in sorted(folder.glob("*.tar"))]
    samples = webdataset.WebDataset(shards, shardshuffle=SHARDS, empty_check=False).shuffle(256)
    samples = samples.decode("pil", only=["jpg"]).to_tuple("jpg").map_tuple(transform)
    return DataLoader(samples, BATCH, drop_last=True, num_workers=workers)


def floats(batches: Iterable[object]) -> Iterator[torch.Tensor]:
    """The batches as a net takes them."""
    for batch in batches:
        yield to_float(batch.image)


def decoded(folder: Path) -> Iterator[list[object]]:
    """Pixels of the JPEGs and nothing else."""
    paths = sorted(folder.rglob("*.jpg"))
    for start in range(0, len(paths), BATCH):
        yield [simplejpeg.decode_jpeg(path.read_bytes(), "RGB") for path in paths[start : start + BATCH]]


def ours(images: object, steps: int, workers: int) -> Iterable[object]:
    """The training loader of a run."""
    assert isinstance(images, ImageSet)
    return train_loader(images, TrainBatches(len(images), 0, BATCH, total_steps=steps), workers)


def images_per_second(loader: Iterable[object]) -> float:
    """Over one epoch, in seconds of the CPU of all processes."""
    start, batches = sum(os.times()[:4]), 0
    for _ in loader:
        batches += 1
    return batches * BATCH / (sum(os.times()[:4]) - start)


def scaled_decoding(folder: Path) -> list[Row]:
    """Large photographs, decoded whole and as far as their crops show, in one process."""
    crops = Photos(crops_per_photo=8, scale=(1.0, 1.0)).train(1200, 0)
    for index in range(BATCH):
        image = crops[0, index].image
        assert image is not None
        (folder / "large").mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "large" / f"{index}.jpg", quality=90)
    rows: list[Row] = []
    for decode in ("exact", "scaled"):
        images = Folder(folder / "large", decode=decode).train(SIDE, 0)
        speed = statistics.median(images_per_second(ours(images, 1, 0)) for _ in range(5))
        rows.append((f"decode={decode}", speed, speed / (rows[0][1] if rows else speed)))
    return rows


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


def page(
    images: int,
    rounds: int,
    workers: list[int],
    sections: list[list[Row]],
    checking: tuple[float, float],
    scaled: list[Row],
) -> str:
    """The results as Markdown."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "pillow", "webdataset"))
    lines = [
        "# Speed of the data path",
        "",
        f"Images per second of CPU time (so per core) from {images} JPEGs of 500 x 375 pixels to batches of {BATCH} "
        f"x 3 x {SIDE} x {SIDE}: random crop, bicubic with antialiasing, mirrored. imtok's batches are bytes, which "
        "the training step turns into floats; where a line says so, that is counted in. Every pixel that it decodes is "
        "Pillow's and torchvision's (`tests/data/test_decode.py`).",
        "",
        f"Medians of {rounds} rounds; in a round every reader runs once over all images, start of the workers "
        "included. The ratio is the median over rounds of the speed by the first line's in the same round.",
        f"{os.cpu_count()} CPU cores ({platform.machine()}), one thread per process, files in the page cache; "
        f"{packages}. Written by `python benchmarks/data.py --images {images} --rounds {rounds}`.",
        "",
        "Goals, without workers: 3 times the first line to float, and 2 times with `crop=adm`. Of an image with "
        "`crop=adm` half of the time is its scaling, which gives Pillow's bytes in half of Pillow's time, and 30 % "
        "is libjpeg's decoding. Even if scaling cost nothing beyond the usual crop's, the ratio would be that of the "
        "folder to float.",
    ]
    for number, rows in zip(workers, sections, strict=True):
        lines += ["", f"## {number} workers", "", "| reader | images/s | ratio |", "|---|---:|---:|"]
        lines += [f"| {name} | {speed:.0f} | {ratio:.2f} |" for name, speed, ratio in rows]
    lines += [
        "",
        "## JPEGs of 1200 x 1200 pixels",
        "",
        "| imtok folder (bytes) | images/s | ratio |",
        "|---|---:|---:|",
    ]
    lines += [f"| {name} | {speed:.0f} | {ratio:.2f} |" for name, speed, ratio in scaled]
    cost, size = checking
    lines += ["", f"To hash an image ({size / 1000:.0f} kB on average) for the check of an index takes {cost:.1f} us."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
