"""What do the first tokens of an image hold? Trains flexible tokenizers; writes docs/evidence/flexible.*.

python benchmarks/flexible.py                       five systems and three seeds, some two minutes of one core each
python benchmarks/flexible.py --steps 50 --seeds 0 --rows try.jsonl retok        to try one out; writes no page
python benchmarks/flexible.py --page                the page alone, from the rows so far

Every system is a recipe at size=tiny on crops of the bundled photographs of 32 x 32 pixels. It is measured on the tiles
of the held-out ones, for the first 1, 2, 4, ..., all tokens: PSNR, and the share of the variance of pixels that the
picture explains. Decoders that draw also have the loss of what they predict, at the same noise for every length.

Rates of tokens are whole: number of tokens x log2 of the vocabulary. JPEG, WebP and AVIF code the same tiles. Only the
bytes of their coded pixels count, without headers and tables, which would be most of so small a file.
"""

import argparse
import io
import json
import logging
import math
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import torch
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))

from recipe_table import between, composed, table

from imtok.commands.train import build_run
from imtok.construct import construct
from imtok.data.order.loader import evaluation_loader
from imtok.decoders.base import GenerativeDecoder
from imtok.options import option
from imtok.pixels import to_float, to_uint8
from imtok.tokenizer import Tokenizer
from imtok.training.run import train

FOLDER = ROOT / "docs" / "evidence"
PAGE, ROWS, PLOT = FOLDER / "flexible.md", FOLDER / "flexible.jsonl", FOLDER / "flexible.png"
QUALITY, EXPLAINED = (
    ("<!-- quality -->", "<!-- end of quality -->"),
    ("<!-- explained -->", "<!-- end of explained -->"),
)
SIDE = 32
NOISES = 4  # draws of noise and time for each image

# The recipe of each, and how its run differs. Judges and critics are left out, since at this size they are random nets.
# One-D-Piece has the pixel head of TiTok's one-stage recipe: its own head starts from a published net's codes. ReTok's
# tiny codebook collapses in the first steps without the entropy term that GigaTok's largest recipe has.
SYSTEMS: dict[str, tuple[str, ...]] = {
    "linear": ("adatok_stage1", "trainer.max_steps=2000", "trainer.batch_size=64"),
    "one_d_piece": (
        "titok_bl64",
        "trainer.max_steps=1500",
        "trainer.batch_size=32",
        f"image_size={SIDE}",
        "encoder.patch_size=8",
        "decoder.patch_size=8",
        "regularizer=one_d_piece",
        "decoder.flexible=true",
        "quantizer.kmeans_start=true",
        "quantizer.restart_below=0.1",
        "~objective.losses.lpips",
        "~objective.losses.convnext",
        "~objective.adversary",
    ),
    "retok": (
        "retok",
        "trainer.max_steps=1000",
        "quantizer.entropy_weight=0.1",
        "optimizer.lr=1e-3",
        "trainer.batch_size=16",
        "~objective.losses.lpips",
        "~objective.adversary",
        "~objective.alignments",
    ),
    "flextok": ("flextok_d12", "trainer.max_steps=2000", "~objective.alignments"),
    "semanticist": ("semanticist", "trainer.max_steps=2000", "~objective.alignments"),
}
NAMES = {
    "linear": "linear maps (AdaTok, stage 1)",
    "one_d_piece": "One-D-Piece",
    "retok": "ReTok",
    "flextok": "FlexTok",
    "semanticist": "Semanticist (no ids)",
}
CODECS = {"JPEG": range(2, 97, 4), "WEBP": range(0, 97, 4), "AVIF": range(2, 97, 4)}


def main() -> None:
    """Train and measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(SYSTEMS)}; none = all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="of each training; none = as SYSTEMS has it")
    parser.add_argument("--rows", type=Path, default=ROWS, help="a line is added for each run")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    given = parser.parse_args()
    unknown = sorted(set(given.names) - set(SYSTEMS))
    if unknown:
        parser.error(f"no such system: {', '.join(unknown)}; there are {', '.join(SYSTEMS)}")
    logging.getLogger("lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for seed in [] if given.page else given.seeds:
        for name in given.names or SYSTEMS:
            about = {"system": name, "seed": seed}
            if any(about.items() <= row.items() for row in stored(given.rows)):
                continue
            row = about | measured(name, seed, given.steps)
            with given.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    if given.rows == ROWS:
        write(stored(ROWS))


def stored(path: Path) -> list[dict[str, Any]]:
    """The rows so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@cache
def tiles() -> Tensor:
    """The held-out tiles: uint8, n 3 32 32."""
    data = construct(option("data", "photos"))
    return torch.cat([batch.image for batch in evaluation_loader(data.validation(SIDE), 64, 0)])


def measured(name: str, seed: int, steps: int | None) -> dict[str, Any]:
    """Train one tokenizer, and measure its first tokens."""
    recipe, *changes = SYSTEMS[name]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = ["size=tiny", *changes, f"seed={seed}", f"out={out}", "trainer.pictures_every=0", "ema.decay=0.99"]
        words += ["trainer.threads=1", *([f"trainer.max_steps={steps}"] if steps else [])]
        before = time.process_time()
        trained = train(build_run(composed(recipe, *words), out)).step
        spent = time.process_time() - before
        tokenizer = Tokenizer.load(out)
    about = {"recipe": recipe, "steps": trained, "processor": round(spent)}
    return about | {"bits": sum(map(math.log2, tokenizer.quantizer.vocab_sizes))} | curves(tokenizer)


@torch.no_grad()
def curves(tokenizer: Tokenizer) -> dict[str, Any]:
    """Numbers of tokens, and what they reach on the tiles: mean PSNR, explained variance, loss of what is predicted."""
    pixels = tiles()
    most = tokenizer.num_tokens((SIDE, SIDE))
    lengths = sorted({*(2**exponent for exponent in range(most.bit_length()) if 2**exponent <= most), most})
    drawn = isinstance(tokenizer.decoder, GenerativeDecoder)
    errors: list[list[Tensor]] = [[] for _ in lengths]
    losses = [0.0 for _ in lengths]
    for index, batch in enumerate(pixels.split(32)):
        image = to_float(batch)
        latents = tokenizer.quantize(image, most).latents
        for place, length in enumerate(lengths):
            torch.manual_seed(index)  # the noise that a picture is drawn from
            decoded = tokenizer.decoder(latents[:, :length], (SIDE, SIDE)).clamp(-1, 1)
            errors[place].append(squared(to_uint8(decoded), batch))
            if drawn:
                losses[place] += loss(tokenizer, image, latents[:, :length], index) * len(image) / len(pixels)
    by_length = [torch.cat(one) for one in errors]
    variance = (pixels.double() / 255).var(0, correction=0).mean().item()
    return {
        "lengths": lengths,
        "psnr": [decibels(one) for one in by_length],
        "explained": [1 - one.mean().item() / variance for one in by_length],
        "loss": losses if drawn else None,
    }


def squared(images: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each image, of pixels in [0, 1]."""
    return ((images.double() - target.double()) / 255).square().mean((1, 2, 3))


def decibels(errors: Tensor) -> float:
    """Mean PSNR of images with such squared errors."""
    return (-10 * errors.clamp_min(1e-10).log10()).mean().item()


def loss(tokenizer: Tokenizer, image: Tensor, latents: Tensor, batch: int) -> float:
    """Mean loss of what is predicted, at noise that depends on nothing but the batch."""
    values = []
    for draw in range(NOISES):
        generator = torch.Generator().manual_seed(1000 * batch + draw)
        found = tokenizer.decoder.loss(image, latents, generator=generator)
        values.append(sum(value.item() * weight for value, weight in found.values()))
    return statistics.mean(values)


@cache
def coded(codec: str) -> list[tuple[float, float]]:
    """Bits of coded pixels per tile, and mean PSNR, for several qualities."""
    found = []
    for quality in CODECS[codec]:
        numbers, errors = [], []
        for tile in tiles()[::4]:
            file = io.BytesIO()
            Image.fromarray(tile.permute(1, 2, 0).numpy()).save(file, codec, quality=quality)
            numbers.append(8 * payload(codec, file.getvalue()))
            again = torch.frombuffer(bytearray(Image.open(file).convert("RGB").tobytes()), dtype=torch.uint8)
            errors.append(squared(again.view(SIDE, SIDE, 3).permute(2, 0, 1)[None], tile[None]))
        found.append((statistics.mean(numbers), decibels(torch.cat(errors))))
    return found


def payload(codec: str, file: bytes) -> int:
    """Bytes of coded pixels in a file, without headers and tables."""
    if codec == "JPEG":
        scan = file.index(b"\xff\xda") + 2
        return len(file) - 2 - scan - int.from_bytes(file[scan : scan + 2], "big")
    if codec == "WEBP":
        chunk = file.index(b"VP8 ") + 4
        return int.from_bytes(file[chunk : chunk + 4], "little")
    box = file.index(b"mdat")
    return int.from_bytes(file[box - 4 : box], "big") - 8


def write(rows: Sequence[dict[str, Any]]) -> None:
    """Tables and plot, from the rows."""
    grouped = {name: [row for row in rows if row["system"] == name] for name in SYSTEMS}
    grouped = {name: own for name, own in grouped.items() if own}
    lengths = sorted({length for row in rows for length in row["lengths"]})
    lines, shares = [], []
    for name, own in grouped.items():
        about = {"system": NAMES[name], "recipe": f"`{own[0]['recipe']}`"}
        times = {"steps": spread(own, lambda row: row["steps"], ",.0f"), "seeds": str(len(own))}
        times["processor (s)"] = spread(own, lambda row: row["processor"], ",.0f")
        lines.append(about | {"measure": "PSNR (dB)"} | by_length(own, lengths, "psnr", ".2f") | times)
        if own[0]["loss"] is not None:
            lines.append(about | {"measure": "loss"} | by_length(own, lengths, "loss", ".4f") | times)
        shares.append({"system": NAMES[name]} | by_length(own, lengths, "explained", ".1%"))
    between(PAGE, QUALITY, ["", *table(lines), ""])
    between(PAGE, EXPLAINED, ["", *table(shares), ""])
    draw(grouped)


def by_length(rows: Sequence[dict[str, Any]], lengths: Sequence[int], key: str, form: str) -> dict[str, str]:
    """A cell for each number of tokens; empty where the system has no such number."""
    known = rows[0]["lengths"]
    return {
        str(length): spread(rows, lambda row, at=length: row[key][known.index(at)], form) if length in known else ""
        for length in lengths
    }


def spread(rows: Sequence[dict[str, Any]], value: Any, form: str) -> str:
    """The mean over seeds, and the smallest and the largest value."""
    values = [value(row) for row in rows]
    mean, low, high = (format(one, form) for one in (statistics.mean(values), min(values), max(values)))
    return mean if low == high else f"{mean} ({low} to {high})"


def draw(grouped: dict[str, list[dict[str, Any]]]) -> None:
    """PSNR over bits beside the codecs; explained variance over tokens; a bar from the smallest to the largest seed."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.8))
    for codec, style in zip(CODECS, ("-", "--", ":"), strict=True):
        points = coded(codec)
        left.plot(*zip(*points, strict=True), color="grey", linestyle=style, label=codec.replace("WEBP", "WebP"))
    colours = pyplot.get_cmap("tab10").colors
    for colour, (name, rows) in zip(colours, grouped.items(), strict=False):
        lengths, bits = rows[0]["lengths"], rows[0]["bits"]
        style = {"marker": "o", "markersize": 4, "capsize": 2, "linewidth": 1.2, "color": colour, "label": NAMES[name]}
        if bits:
            left.errorbar([bits * length for length in lengths], *bars(rows, "psnr"), **style)
        right.errorbar(lengths, *bars(rows, "explained"), **style)
    left.set_xlabel(f"bits per image of {SIDE} x {SIDE} pixels")
    left.set_ylabel("PSNR (dB)")
    left.set_xlim(8, 4000)
    left.set_ylim(10, 32)
    right.set_xlabel("tokens")
    right.set_ylabel("explained variance")
    right.set_ylim(0, 1)
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.spines[["top", "right"]].set_visible(False)
    entries = {
        name: line for axis in (left, right) for line, name in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.legend(entries.values(), entries.keys(), loc="lower center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(PLOT, dpi=120)
    pyplot.close(figure)


def bars(rows: Sequence[dict[str, Any]], key: str) -> tuple[list[float], list[list[float]]]:
    """Means over seeds for each number of tokens, and how far the smallest and the largest values are from them."""
    columns = list(zip(*(row[key] for row in rows), strict=True))
    means = [statistics.mean(column) for column in columns]
    low = [mean - min(column) for mean, column in zip(means, columns, strict=True)]
    return means, [low, [max(column) - mean for mean, column in zip(means, columns, strict=True)]]


if __name__ == "__main__":
    main()
