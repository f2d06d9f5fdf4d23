"""Does the caption help? Trains tiny tokenizers of 4 tokens on drawn shapes; writes the table of docs/conditions.md.

python benchmarks/text.py                     textok and ta_titok, 3 seeds, with text and without
python benchmarks/text.py --steps 100 textok  this one, to try it out

A drawing is a shape of a colour, a form and a place, which its caption names, on a ground of any colour, which it does
not. Mean PSNR in dB of held-out drawings, of which encoder and decoder are told the caption, nothing, or the caption
of another drawing. A second net learns without any text. Exit code 1 unless the caption is worth 1 dB over nothing, and
a wrong one is worse than nothing, for every seed.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.recipe_table import between, table
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer

PAGE = ROOT / "docs" / "conditions.md"
START, END = "<!-- text -->", "<!-- end of text -->"
SIDE, MARGIN = 32, 1.0  # pixels; dB that the caption must be worth
STEPS, BATCH, RATE, WARMUP = 700, 64, 3e-3, 50
COLOURS = {
    "red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 70, 220), "yellow": (235, 215, 50),
    "purple": (150, 50, 190), "orange": (240, 140, 30), "white": (245, 245, 245), "black": (15, 15, 15),
}  # fmt: skip
FORMS = ("circle", "square", "triangle", "cross")
PLACES = ("top left", "top right", "bottom left", "bottom right")
TRUNK = {"patch_size": 16, "width": 48, "depth": 2, "heads": 3, "start": "normal", "value_range": [-1.0, 1.0]}
TEXT = {"context_dim": 32, "context_length": 5}
PLAIN = {"_target_": "imtok.encoders.titok.TiTokEncoder", "latents": 4, **TRUNK}
ENCODERS = {  # of each net; the decoder reads the text in both, the encoder in the first
    "textok": {"_target_": "imtok.encoders.textok.TexTokEncoder", "latents": 4, **TRUNK, **TEXT},
    "ta_titok": PLAIN,
}
DECODER = {"_target_": "imtok.decoders.titok.TiTokPixelDecoder", "kernel_out": None, **TRUNK}
COMMON = {"quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [4, 4]}, "image_size": SIDE}
WORDS = {"_target_": "imtok.conditions.words.Words", "dim": 32, "length": 5, "buckets": 512, "drop": 0.1}


class Drawings(NamedTuple):
    """Images in [-1, 1], and what their captions say."""

    images: Tensor
    captions: list[str]


def main() -> None:
    """Train and measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="nets; none = both, and the page is written")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimiser steps")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(ENCODERS)):
        parser.error(f"no such net: {', '.join(unknown)}")
    torch.set_num_threads(1)
    rows, failed = list[dict[str, str]](), []
    for seed in range(arguments.seeds):
        bare = psnr(trained(None, seed, arguments.steps), unseen(), None)
        for name in arguments.names or ENCODERS:
            found = told(trained(name, seed, arguments.steps), unseen())
            rows.append(cells(name, seed, found, bare))
            print("\n".join(table(rows)[0 if len(rows) == 1 else -1 :]), flush=True)
            if not good(found):
                failed.append(f"{name} with seed {seed}")
    if not arguments.names:
        between(PAGE, (START, END), ["", *table(sorted(rows, key=lambda row: row["net"], reverse=True)), ""])
    if failed:
        sys.exit(f"the caption is not worth {MARGIN:g} dB, or a wrong one no loss: {', '.join(failed)}")


def draw(first: int, number: int) -> Drawings:
    """So many drawings; the same ones whenever they are drawn."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    images, captions = [], []
    for at in range(first, first + number):
        chance = np.random.default_rng(at)
        colour, form, place = (str(chance.choice(names)) for names in (list(COLOURS), FORMS, PLACES))
        pixels = np.broadcast_to(chance.integers(90, 170, 3), (SIDE, SIDE, 3)).astype(np.uint8)
        row, column = divmod(PLACES.index(place), 2)
        below, beside = (
            rows - (8 + 15 * row + chance.uniform(-1, 1)),
            columns - (8 + 15 * column + chance.uniform(-1, 1)),
        )
        pixels[_inside(form, below, beside, chance.uniform(6, 7.5))] = COLOURS[colour]
        images.append(pixels)
        captions.append(f"a {colour} {form} {place}")
    return Drawings(to_float(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()), captions)


def unseen() -> Drawings:
    """Drawings that no net learns from."""
    return draw(10**6, 256)


def _inside(form: str, below: np.ndarray, beside: np.ndarray, size: float) -> np.ndarray:
    """Which pixels a shape covers, from their distances to its middle."""
    if form == "circle":
        return np.hypot(below, beside) < size
    square = (abs(below) < size) & (abs(beside) < size)
    if form == "square":
        return square
    if form == "triangle":
        return square & (abs(beside) < (below + size) / 2)
    return square & ((abs(below) < size / 3) | (abs(beside) < size / 3))


def trained(name: str | None, seed: int, steps: int) -> Tokenizer:
    """A tokenizer of 4 tokens of 4 bits that has learnt to paint drawings by their squared error.

    Args:
        name: Of the net; None = TiTok's, which learns without any text.
        seed: Of its weights, its images and what it is not told.
        steps: Of the optimiser.
    """
    torch.manual_seed(seed)
    config: dict[str, Any] = {"encoder": ENCODERS[name or "ta_titok"], "decoder": DECODER, **COMMON}
    if name is not None:
        config |= {"decoder": DECODER | TEXT, "condition": WORDS}
    tokenizer, drawings = Tokenizer.from_config(config).train(), draw(0, 2000)
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=WARMUP / steps)
    for _ in range(steps):
        chosen = torch.randint(len(drawings.images), (BATCH,))
        images, captions = drawings.images[chosen], [drawings.captions[at] for at in chosen.tolist()]
        condition = tokenizer.condition_for(BATCH, captions)
        loss = (tokenizer(images, condition=condition).image - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
        optimizer.step()
        rate.step()
    return tokenizer.eval()


def told(tokenizer: Tokenizer, drawings: Drawings) -> dict[str, float]:
    """PSNR with the caption of each drawing, with none, and with that of another one."""
    captions = drawings.captions
    ways = {"right": captions, "none": [""] * len(captions), "shuffled": captions[1:] + captions[:1]}
    return {way: psnr(tokenizer, drawings, texts) for way, texts in ways.items()}


@torch.no_grad()
def psnr(tokenizer: Tokenizer, drawings: Drawings, captions: list[str] | None) -> float:
    """Mean PSNR in dB of drawings of which the tokenizer is told such captions."""
    images = drawings.images
    condition = None if captions is None else tokenizer.condition_for(len(images), captions)
    error = (tokenizer(images, condition=condition).image.clamp(-1, 1) - images).square().mean((1, 2, 3))
    return float((10 * torch.log10(4 / error)).mean())


def good(found: dict[str, float]) -> bool:
    """Whether the caption helps, and a wrong one harms."""
    return found["right"] - found["none"] >= MARGIN and found["shuffled"] < found["none"]


def cells(name: str, seed: int, found: dict[str, float], bare: float) -> dict[str, str]:
    """What was measured, as a row."""
    measured = {"right caption": found["right"], "no caption": found["none"], "caption of another": found["shuffled"]}
    row = {"net": f"`{name}`", "seed": str(seed)}
    row |= {what: f"{value:.2f}" for what, value in measured.items()}
    return row | {"net without text": f"{bare:.2f}", "worth": f"{found['right'] - found['none']:+.2f}"}


if __name__ == "__main__":
    main()
