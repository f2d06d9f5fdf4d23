"""Train every quantizer preset for feature maps on the bundled photographs with one budget; write docs/quantizers.md.

python benchmarks/sweep.py                         every preset, 2000 steps each
python benchmarks/sweep.py --steps 50 vq fsq       these two, to try it out
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from imtok.construct import construct
from imtok.data.loader import evaluation_loader
from imtok.measures.psnr import PSNR
from imtok.options import option

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
PAGE = ROOT / "docs" / "quantizers.md"
IMAGE_SIZE = 64
SCALES = "[1,2,3,4,5,6,8]"  # multi-scale presets, on the 8 x 8 map that all presets are trained on
PLAIN = "decoder.depth=4 decoder.up_channels=[] decoder.shortcut=false decoder.deblock=0 data.colours=0"
NET = PLAIN.split()  # the default is made for pictures, and slower
LEFT_OUT = {
    "hita": "its tokens are a sequence of two kinds, no map",
    "tokenbridge_6": "it is fitted to a trained autoencoder",
    "kmeans": "it is fitted to a frozen net's features",
}
START, END = "<!-- sweep -->", "<!-- end of sweep -->"


def main() -> None:
    """Run the sweep that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="presets of configs/quantizer; none = all but those of LEFT_OUT")
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps of 32 images each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", type=Path, default=PAGE, help="where the table goes, between its two marks")
    arguments = parser.parse_args()
    presets = sorted(path.stem for path in (CONFIGS / "quantizer").glob("*.yaml"))
    unknown = sorted(set(arguments.names) - set(presets))
    if unknown:
        parser.error(f"no such preset: {', '.join(unknown)}; there are {', '.join(presets)}")
    names = arguments.names or [name for name in presets if name not in LEFT_OUT]
    floor = mean_colour_psnr()
    rows = []
    for name in names:
        rows.append(train(name, arguments.steps, arguments.seed))
        print(line(rows[-1], floor), flush=True)
    write(arguments.page, page(rows, floor, arguments.steps, arguments.seed))


def train(name: str, steps: int, seed: int) -> dict[str, Any]:
    """Train one preset in a process of its own and read what it reports."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "train.py", f"quantizer={name}", f"image_size={IMAGE_SIZE}", f"seed={seed}"]
        command += [*NET, f"trainer.max_steps={steps}", f"out={out}"]
        command += ["trainer.pictures_every=0", f"trainer.save_every={steps}", *scales(name)]
        before = cpu_seconds()
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if result.returncode:
            return {"name": name, "failure": (result.stderr.strip().splitlines() or ["no message"])[-1]}
        report = json.loads((out / "evaluation" / "report.json").read_text())
    return {
        "name": name,
        "slots": report["vocab_sizes"],
        "bits_per_token": report["bits_per_token"],
        "step_ms": 1000 * (cpu_seconds() - before) / steps,
        **{key: report["metrics"].get(key) for key in ("psnr", "usage", "perplexity", "tokens_per_image")},
    }


def cpu_seconds() -> float:
    """Processor time of the runs that have ended: on a shared machine it says more than the clock."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def scales(name: str) -> list[str]:
    """Overrides that bring a multi-scale preset to the map of the sweep."""
    config = option("quantizer", name)
    parts = [f"parts.{index}." for index, part in enumerate(config.get("parts", [])) if "sizes" in part]
    return [f"quantizer.{prefix}sizes={SCALES}" for prefix in ([""] if "sizes" in config else parts)]


def mean_colour_psnr() -> float:
    """PSNR of pictures that show nothing but the mean colour of the training photographs: what no token reaches."""
    data = construct(option("data", "photos"))
    sums, pixels = torch.zeros(3, dtype=torch.float64), 0
    for batch in evaluation_loader(data.evaluation(IMAGE_SIZE, "train"), 64, 0):
        sums += batch.image.double().sum((0, 2, 3))
        pixels += batch.image[:, 0].numel()
    colour = (sums / pixels).round().to(torch.uint8)[None, :, None, None]
    metric = PSNR()
    for batch in evaluation_loader(data.validation(IMAGE_SIZE), 64, 0):
        metric.update(colour.expand_as(batch.image), batch.image)
    return metric.compute().item()


def line(row: dict[str, Any], floor: float) -> str:
    """One row of the table."""
    if "failure" in row:
        return f"| {row['name']} | failed: {row['failure']} |" + " |" * 7
    digits = {"usage": 3, "perplexity": 0}
    counted = ["-" if row[key] is None else f"{row[key]:.{places}f}" for key, places in digits.items()]
    cells = [row["name"], slots(row["slots"]), f"{row['bits_per_token']:g}"[:6], f"{row['tokens_per_image']:.0f}"]
    cells += [f"{row['psnr']:.2f}", f"{row['psnr'] - floor:+.2f}", *counted, f"{row['step_ms']:.0f}"]
    return "| " + " | ".join(cells) + " |"


def slots(sizes: list[int]) -> str:
    """Vocabularies of the slots, equal neighbours together: ``8 x 16384``."""
    runs: list[list[int]] = []
    for size in sizes:
        if runs and runs[-1][1] == size:
            runs[-1][0] += 1
        else:
            runs.append([1, size])
    return " + ".join(f"{count} x {size}" if count > 1 else str(size) for count, size in runs) or "none"


def page(rows: list[dict[str, Any]], floor: float, steps: int, seed: int) -> str:
    """The table and how it was made."""
    trained = [row for row in rows if "failure" not in row]
    below = [row["name"] for row in trained if row["psnr"] < floor + 3]
    text = [
        START,
        f"`python benchmarks/sweep.py --steps {steps} --seed {seed}`: the encoder of "
        f"`configs/train.yaml`, with `{PLAIN}`, "
        f"{IMAGE_SIZE} x {IMAGE_SIZE} pixels, 8 x 8 latents, the same {steps} steps for each. "
        "Everything is measured on the held-out photographs; usage and perplexity are means over slots. Step times are "
        "processor time on one thread, start and evaluation included, and compare only with each other. Multi-scale "
        f"presets use sides {SCALES.replace(',', ', ')} instead of their own, and so more tokens.",
        "",
        f"The mean colour of the training photographs, without any token, is at {floor:.2f} dB. "
        + (f"Less than 3 dB above it: {', '.join(below)}." if below else "Every preset is at least 3 dB above it."),
        "",
        "| preset | vocabulary | bits per token | tokens | PSNR (dB) | above mean colour | usage | perplexity "
        "| step (ms) |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(line(row, floor) for row in sorted(rows, key=lambda row: -row.get("psnr", 0.0))),
        "",
        "Left out: " + "; ".join(f"`{name}` ({reason})" for name, reason in LEFT_OUT.items()) + ".",
        END,
    ]
    return "\n".join(text)


def write(path: Path, table: str) -> None:
    """Put the table between its marks; what people wrote around it stays."""
    text = path.read_text() if path.exists() else f"# Quantizers compared\n\n{START}\n{END}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(re.sub(f"{START}.*{END}", lambda _: table, text, flags=re.DOTALL))


if __name__ == "__main__":
    main()
