"""Images per second of an export, beside the encoder alone and beside extraction as LlamaGen's script does it.

    python benchmarks/export.py [--images 96] [--rounds 3] [--out docs/benchmarks-export.md]

All three encode the same ten crops of the same JPEGs with the same model, one after the other in each round. Encoding
alone has its images decoded in memory. LlamaGen's pattern is one process that takes one image at a time: PIL crop,
ten PIL crops, ten float tensors, one batch of ten, two files per image.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, Lambda, Normalize, TenCrop, ToTensor

from imtok.data.folder import Folder
from imtok.data.images import ImageSet
from imtok.data.photos import Photos
from imtok.export.feed import Listed
from imtok.export.tokens import export_tokens
from imtok.export.views import Views
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer

SIDE, RESIZE, BATCH = 256, 1.1, 8
MODELS = {
    "small": {"patch_size": 16, "width": 64, "depth": 1},
    "larger": {"patch_size": 16, "width": 256, "depth": 4},
}


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks-export.md"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_images(root / "images", arguments.images)
        found = {
            model: measure(root, model, arguments.images, arguments.rounds, arguments.workers)
            for model in arguments.models
        }
    text = page(found, arguments.images, arguments.rounds, arguments.workers)
    arguments.out.write_text(text)
    print(text)


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
    """A tokenizer of 256 tokens, 16384 codes: what an encoder costs is a matter of its size only."""
    torch.manual_seed(0)
    part = MODELS[name]
    config = {
        "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", **part},
        "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 8, 8, 5, 5, 5]},
        "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", **part},
        "image_size": SIDE,
    }
    return Tokenizer.from_config(config).eval()


def measure(root: Path, model: str, images: int, rounds: int, workers: int) -> dict[str, list[float]]:
    """Images per second of each way, by round."""
    tokenizer, views = model_of(model), Views("ten_crop")
    source = Folder(root / "images").evaluation(views.square(SIDE))
    assert isinstance(source, ImageSet)
    squares = torch.stack(
        [sample.image for sample in (source[0, index] for index in range(images)) if sample.image is not None]
    )
    found: dict[str, list[float]] = {"encoder alone": [], "imtok export": [], "LlamaGen's pattern": []}
    for turn in range(rounds + 1):  # the first one warms caches
        speeds = (
            timed(images, partial(encode_only, tokenizer, squares, views)),
            timed(images, partial(export, tokenizer, source, root / f"{model}-{turn}", workers, views)),
            timed(images, partial(one_by_one, tokenizer, root / "images", root / f"{model}-pattern-{turn}")),
        )
        if turn:
            for own, speed in zip(found.values(), speeds, strict=True):
                own.append(speed)
    return found


def timed(images: int, action: Callable[[], None]) -> float:
    """Images per second."""
    start = time.perf_counter()
    action()
    return images / (time.perf_counter() - start)


@torch.inference_mode()
def encode_only(tokenizer: Tokenizer, squares: Tensor, views: Views) -> None:
    """The model alone, in batches of the export's size, on crops cut from squares that are in memory."""
    for part in squares.split(BATCH):
        tokenizer.quantize(views(to_float(part), SIDE).flatten(0, 1))


def export(tokenizer: Tokenizer, images: ImageSet, folder: Path, workers: int, views: Views) -> None:
    """From files to a whole store, workers started and hashes made."""
    export_tokens(tokenizer, Listed(images, 64, BATCH, workers), folder, views)


@torch.inference_mode()
def one_by_one(tokenizer: Tokenizer, folder: Path, out: Path) -> None:
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


def page(found: dict[str, dict[str, list[float]]], images: int, rounds: int, workers: int) -> str:
    """The results as Markdown."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "pillow"))
    lines = [
        "# Speed of an export",
        "",
        f"Images per second from {images} JPEGs of 500 x 375 pixels to the ids of ten crops of {SIDE} x {SIDE} pixels "
        f"each, 256 tokens per crop. Medians of {rounds} rounds; in a round every way runs once, on the same model.",
        f"The export decodes in {workers} worker process{'es' * (workers != 1)}; its time includes their start, "
        "writing and hashing. The encoder alone finds its images decoded in memory.",
        f"{os.cpu_count()} CPU cores ({platform.machine()}), one thread per process; {packages}. Written by "
        "`python benchmarks/export.py`.",
        "",
        "| model | way | images/s | of the encoder alone | of LlamaGen's pattern |",
        "|---|---|---:|---:|---:|",
    ]
    for model, ways in found.items():
        part = MODELS[model]
        for way, speeds in ways.items():
            alone = statistics.median(a / b for a, b in zip(speeds, ways["encoder alone"], strict=True))
            pattern = statistics.median(a / b for a, b in zip(speeds, ways["LlamaGen's pattern"], strict=True))
            name = f"{part['depth']} x {part['width']}"
            lines.append(f"| {name} | {way} | {statistics.median(speeds):.1f} | {alone:.2f} | {pattern:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
