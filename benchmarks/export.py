"""Images per second of an export, beside the encoder alone and beside extraction as LlamaGen's script does it.

    python benchmarks/export.py [--images 96] [--rounds 3] [--processes 2] [--out docs/benchmarks-export.md]

All encode the same ten crops of the same JPEGs with the same model, one way after the other in each round. LlamaGen's
pattern is one process that takes one image at a time: PIL crop, ten PIL crops, ten float tensors, one batch of ten,
two files per image.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, Lambda, Normalize, TenCrop, ToTensor

from imtok.data.images import ImageSet
from imtok.data.sources.folder import Folder
from imtok.data.sources.photos import Photos
from imtok.export.feed import ListFeed
from imtok.export.tokens import export_tokens
from imtok.export.views import Views
from imtok.options import option
from imtok.system import keep_memory
from imtok.tokenizer import Tokenizer

SIDE, RESIZE = 256, 1.1
BATCH = 6  # images: as `imtok export` has it, whose batch_size=64 counts crops
VIEWS = Views("ten_crop")
MODELS = {
    "smallest": {"patch_size": 16, "width": 8, "depth": 0},
    "small": {"patch_size": 16, "width": 64, "depth": 1},
    "larger": {"patch_size": 16, "width": 256, "depth": 4},
}
VQ16 = "vq16"  # LlamaGen's, whose activations are large; of a sixteenth of the images, at a quarter of the side
NO_MODEL = "none: pixels only"
Ways = dict[str, list[tuple[float, float]]]  # images per second, and per second of the processor, by round


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--models", nargs="+", choices=[*MODELS, VQ16], default=[*MODELS, VQ16])
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks-export.md"))
    arguments = parser.parse_args()
    begin(side := SIDE)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_images(root / "images", arguments.images)
        found = {NO_MODEL: measure_pixels(root, arguments.images, arguments.rounds, arguments.processes)}
        for model in (model for model in arguments.models if model != VQ16):
            found[model] = measure(root, model, arguments.images, arguments.rounds, arguments.processes)
        if VQ16 in arguments.models:
            few = max(BATCH, arguments.images // 16)
            write_images(root / VQ16 / "images", few)
            begin(side // 4)
            found[VQ16] = measure(root / VQ16, VQ16, few, arguments.rounds, arguments.processes)
            begin(side)
    text = page(found, arguments.images, arguments.rounds, arguments.processes)
    arguments.out.write_text(text)
    print(text)


def begin(side: int) -> None:
    """What every process does first; memory is kept as the commands of imtok keep it."""
    global SIDE
    SIDE = side
    CROPS.clear()
    keep_memory()
    torch.set_num_threads(1)


def write_images(folder: Path, number: int) -> None:
    """JPEGs of 500 x 375 pixels, as ImageNet's are: crops of the bundled photographs."""
    crops = Photos(crops_per_photo=-(-number // 9), scale=(0.3, 1.0)).train(500, 0)
    for index in range(number):
        sample = crops[0, index * 7 % len(crops)]
        assert sample.image is not None
        path = folder / f"{index % 10}" / f"{index:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.image[:, :375].permute(1, 2, 0).numpy()).save(path, quality=90)


def model_of(name: str) -> Tokenizer:
    """A tokenizer of 16 x 16 pixels per token, 16384 codes: what an encoder costs is a matter of its size only."""
    torch.manual_seed(0)
    config = {
        "encoder": option("encoder", "cnn")
        if name == VQ16
        else {"_target_": "imtok.encoders.patch.PatchEncoder", **MODELS[name]},
        "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 8, 8, 8, 4]},
        "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", "patch_size": 16, "width": 8, "depth": 0},
        "image_size": SIDE,
    }
    return Tokenizer.from_config(config).eval()


def images_of(root: Path) -> ImageSet:
    """The JPEGs as the squares that an export cuts its ten crops from."""
    source = Folder(root / "images").evaluation(VIEWS.square(SIDE))
    assert isinstance(source, ImageSet)
    return source


def measure(root: Path, model: str, images: int, rounds: int, processes: int) -> Ways:
    """Images per second of each way, by round."""
    tokenizer, source = model_of(model), images_of(root)
    shard = BATCH * max(1, images // (2 * processes * BATCH))  # two for each process, so that all have work
    with workers(root, model, shard, processes) as together:
        ways: dict[str, Callable[[Path], None]] = {
            "encoder alone": lambda _: encode_only(tokenizer, images),
            f"encoder alone, {processes} processes": lambda _: together(encode_only, -(-images // processes)),
            "imtok export, 1 process": lambda out: export(tokenizer, source, shard, 0, out),
            "imtok export, 1 process and 1 worker": lambda out: export(tokenizer, source, shard, 1, out),
            f"imtok export, {processes} processes": lambda out: together(export, out),
            "LlamaGen's pattern": partial(one_by_one, tokenizer, root / "images"),
        }
        return timed(ways, images, rounds, root / model)


def measure_pixels(root: Path, images: int, rounds: int, processes: int) -> Ways:
    """The same without a model: from files to the pixels that go to the device."""
    source = images_of(root)
    with workers(root, None, 1, processes) as together:
        ways: dict[str, Callable[[Path], None]] = {
            "imtok export, 1 process": lambda _: read(source, 0, 1),
            f"imtok export, {processes} processes": lambda _: together(read),
            "LlamaGen's pattern": partial(one_by_one, None, root / "images"),
        }
        return timed(ways, images, rounds, root / "pixels")


def timed(ways: dict[str, Callable[[Path], None]], images: int, rounds: int, out: Path) -> Ways:
    """The speeds of all ways, in turn; a round before the first one warms caches."""
    found: Ways = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for number, (way, action) in enumerate(ways.items()):
            start, busy = time.perf_counter(), sum(os.times()[:4])
            action(out / f"{turn}-{number}")
            seconds, used = time.perf_counter() - start, sum(os.times()[:4]) - busy
            if turn:
                found[way].append((images / seconds, images / max(used, 0.01)))
    return found


@contextmanager
def workers(root: Path, model: str | None, shard: int, processes: int) -> Iterator[Callable[..., None]]:
    """Processes that have loaded and warmed the model; the value lets all do the same thing at once."""
    context, connections, started = multiprocessing.get_context("spawn"), list[Connection](), []
    for number in range(processes):
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, root, model, shard, number, processes, SIDE))
        process.start()
        connections.append(ours)
        started.append(process)

    def together(*task: Any) -> None:
        for connection in connections:
            connection.send(task)
        for connection in connections:
            connection.recv()

    for connection in connections:
        connection.recv()  # it is warm
    try:
        yield together
    finally:
        for connection in connections:
            connection.send(None)
        for process in started:
            process.join()


def serve(
    connection: Connection, root: Path, model: str | None, shard: int, number: int, processes: int, side: int
) -> None:
    """What each of them does."""
    begin(side)
    source, tokenizer = images_of(root), None if model is None else model_of(model)
    if tokenizer is not None:
        encode_only(tokenizer, BATCH)
    source[0, 0]
    connection.send(None)
    while (task := connection.recv()) is not None:
        action, *rest = task
        if action is read:
            read(source, number, processes)
        elif tokenizer is not None:
            action(tokenizer, *rest) if action is encode_only else export(tokenizer, source, shard, 0, *rest)
        connection.send(None)


@torch.inference_mode()
def encode_only(tokenizer: Tokenizer, images: int) -> None:
    """The model alone, in batches of the export's size, on crops that lie in memory: the same again and again."""
    crops = crops_in_memory()
    for start in range(0, images, BATCH):
        tokenizer.quantize(crops[: min(BATCH, images - start) * len(VIEWS)])


CROPS: list[Tensor] = []


def crops_in_memory() -> Tensor:
    """One batch, made once."""
    if not CROPS:
        CROPS.append(torch.rand(BATCH * len(VIEWS), 3, SIDE, SIDE) * 2 - 1)
    return CROPS[0]


def export(tokenizer: Tokenizer, images: ImageSet, shard: int, readers: int, folder: Path) -> None:
    """From files to a whole store, hashes made; where others work on the same folder, to the end of all."""
    export_tokens(tokenizer, ListFeed(images, shard, BATCH, readers), folder, VIEWS)


def read(images: ImageSet, first: int, step: int) -> None:
    """From files to squares, from which crops are cut wherever the model is."""
    for index in range(first, len(images), step):
        images[0, index]


@torch.inference_mode()
def one_by_one(tokenizer: Tokenizer | None, folder: Path, out: Path) -> None:
    """One image at a time, on PIL, in one process."""
    for name in ("codes", "labels"):
        (out / name).mkdir(parents=True)
    normalize = Compose([ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])
    transform = Compose(
        [
            Lambda(lambda picture: centre(picture, int(SIDE * RESIZE))),
            TenCrop(SIDE),
            Lambda(lambda crops: torch.stack([normalize(crop) for crop in crops])),
        ]
    )
    for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
        with Image.open(path) as picture:
            crops = transform(picture.convert("RGB"))
        if tokenizer is not None:
            ids = tokenizer.quantize(crops).ids
            np.save(out / f"codes/{number}.npy", ids[None, ..., 0].numpy())
            np.save(out / f"labels/{number}.npy", np.array([int(path.parent.name)]))


def centre(picture: Image.Image, size: int) -> Image.Image:
    """ADM's crop."""
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    factor = size / min(picture.size)
    picture = picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return picture.crop((left, top, left + size, top + size))


def page(found: dict[str, Ways], images: int, rounds: int, processes: int) -> str:
    """The results as Markdown."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "pillow"))
    lines = [
        "# Speed of an export",
        "",
        f"Images per second from {images} JPEGs of 500 x 375 pixels to the ids of ten crops of {SIDE} x {SIDE} pixels "
        f"each, 256 tokens per crop (VQ-16: {SIDE // 4} x {SIDE // 4} pixels, 16 tokens, a sixteenth of the images). "
        f"Medians of {rounds} rounds; in a round every way runs once, on the same model. The last column is of images "
        "per second of the processor, which other work on the machine changes less; of processes that were started "
        "before it is not known.",
        f"{os.cpu_count()} CPU cores ({platform.machine()}), one thread per process; {packages}. Written by "
        f"`python benchmarks/export.py --models {' '.join(list(found)[1:])} --images {images} --rounds {rounds}`.",
        "",
        "* *Encoder alone* finds float crops in memory.",
        "* *1 process and 1 worker*: `imtok export ... workers=1`; its time includes the worker's start, and a "
        "copy of the pages that the ways before it have left in memory.",
        f"* *{processes} processes*: so many `imtok export` on one folder, which share it shard by shard. They have "
        "been started and have loaded the model before the clock runs, as a long export soon has.",
        "* *LlamaGen's pattern*: one process, one image at a time, ten PIL crops, two files per image.",
        "",
        "Goals, by the processor's time of one process: twice the pattern with the smallest encoder, and 85 % of the "
        "encoder alone where that is the cost (VQ-16).",
        "",
        "| model (depth x width) | way | images/s | of the encoder alone | of LlamaGen's pattern | by processor |",
        "|---|---|---:|---:|---:|---:|",
    ]
    together = f"{processes} processes"
    for model, ways in found.items():
        name = title(model)
        for way, speeds in ways.items():
            alone = ways.get(f"encoder alone, {together}" if together in way else "encoder alone")
            of_alone = "" if alone is None else f"{ratio(speeds, alone):.2f}"
            pattern = ways["LlamaGen's pattern"]
            shown = f"{statistics.median(speed for speed, _ in speeds):.1f} | {of_alone} | {ratio(speeds, pattern):.2f}"
            used = "" if together in way else f"{ratio(speeds, pattern, clock=1):.2f}"
            lines.append(f"| {name} | {way} | {shown} | {used} |")
    return "\n".join([*lines, "", *bounds(found, processes)]) + "\n"


def bounds(found: dict[str, Ways], processes: int) -> list[str]:
    """What could be reached at most, in words."""
    lines = [
        f"With {processes} processes the encoder alone is that in {processes} processes. It bounds every export on "
        "this machine: if pixels, writing and hashing cost nothing, an export would be",
        "",
    ]
    for model, ways in found.items():
        if model != NO_MODEL:
            most = ratio(ways[f"encoder alone, {processes} processes"], ways["LlamaGen's pattern"])
            lines.append(f"* {most:.1f} times as fast as LlamaGen's pattern for {title(model)}.")
    own = ratio(found[NO_MODEL]["imtok export, 1 process"], found[NO_MODEL]["LlamaGen's pattern"], clock=1)
    lines += [
        "",
        f"Where a device encodes in no time, pixels are the bound: per process imtok prepares {own:.2f} times as many "
        "images per second of the processor as the pattern (to the same pixels; "
        f"imtok leaves the ten crops to the device), so 5 times the pattern takes {5 / own:.1f} cores.",
    ]
    return lines


def title(model: str) -> str:
    """A model as the page calls it."""
    part = MODELS.get(model)
    return f"{part['depth']} x {part['width']}" if part else "VQ-16" if model == VQ16 else model


def ratio(speeds: list[tuple[float, float]], others: list[tuple[float, float]], clock: int = 0) -> float:
    """The median over rounds, by the wall clock or (1) by the processor's."""
    return statistics.median(a[clock] / b[clock] for a, b in zip(speeds, others, strict=True))


if __name__ == "__main__":
    main()
