"""Does adversarial and perceptual training sharpen? Two trainings from one start; writes docs/evidence/sharpening.*.

python benchmarks/sharpness.py              three seeds, about two minutes of one core each
python benchmarks/sharpness.py --quick      a tenth of the steps, to try it out; exit code 1 is to be expected

For each seed a tokenizer learns the bundled photographs by their absolute error alone. From there one twin goes on as
before and the other with `objective=offline` (features of EfficientNet-Lite0, a PatchGAN), for equally many steps.
Measured on held-out photographs: the power of the spectrum above half the Nyquist frequency against that of the
originals, fd_efflite0_224 and PSNR. Exit code 1 unless in every seed the spectrum comes closer, the distance falls, and
PSNR drops by less than 2 dB.
"""

import argparse
import json
import logging
import math
import re
import sys
import tempfile
import time
import warnings
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import matplotlib
import torch
from hydra import compose, initialize_config_dir

from imtok.commands.train import build_run
from imtok.config import check_command, register_schemas
from imtok.data.order.loader import evaluation_loader
from imtok.extractors.efflite0 import EffLite0
from imtok.folders import config_folder
from imtok.measures.frechet import FeatureGaussian, frechet_distance
from imtok.measures.psnr import PSNR
from imtok.pixels import to_float, to_uint8
from imtok.tokenizer import Tokenizer
from imtok.training.run import Run, train

ROOT = Path(__file__).parents[1]
START, END = "<!-- sharpness -->", "<!-- end of sharpness -->"
COMMON = (
    "image_size=32",
    "trainer.batch_size=16",
    "trainer.workers=0",
    "trainer.pictures_every=0",
    "optimizer.warmup_steps=20",
    "ema.decay=0.98",
)
PLAIN = (
    "objective=reconstruction",
    "~objective.losses.l2",
    "+objective.losses.l1={_target_: imtok.losses.pixel.L1Loss}",
)
ADVERSARIAL = (
    "objective=offline",
    "objective.adversary.critic_start=0",
    "objective.adversary.generator_start=40",
    "objective.adversary.ramp_steps=40",
    "optimizer.critic.lr=5e-4",
)
TILES, BATCH, SHOWN = 256, 64, 8
DROP = 2.0  # dB


def main() -> None:
    """Train and measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--start", type=int, default=400, help="steps before the twins part")
    parser.add_argument("--steps", type=int, default=150, help="steps of each twin")
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps")
    parser.add_argument(
        "--page", type=Path, default=ROOT / "docs" / "evidence" / "sharpening.md", help="the picture goes beside it"
    )
    parser.add_argument("--try", dest="given", nargs="*", default=[], help="overrides for the adversarial twin")
    arguments = parser.parse_args()
    logging.getLogger("lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    share = 10 if arguments.quick else 1
    rows, pictures = [], []
    for seed in arguments.seeds:
        row, shown = measure(seed, arguments.start // share, arguments.steps // share, arguments.given)
        rows.append(row)
        pictures.append(shown)
        print(json.dumps(row), flush=True)
    write(arguments.page, rows, (arguments.start // share, arguments.steps // share))
    draw(arguments.page.with_suffix(".png"), rows, pictures[0])
    wrong = [row["seed"] for row in rows if not holds(row)]
    if wrong:
        sys.exit(f"not sharper, or at too high a cost, with seeds {wrong}")


def holds(row: dict[str, Any]) -> bool:
    """Whether the adversarial twin is sharper and nearer, at less than 2 dB."""
    plain, other = row["plain"], row["adversarial"]
    nearer = abs(math.log(other["power"])) < abs(math.log(plain["power"]))
    return nearer and other["fd"] < plain["fd"] and plain["psnr"] - other["psnr"] < DROP


def measure(seed: int, start: int, steps: int, given: list[str]) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Train one tokenizer and its twins; numbers of both, and originals with what both make of them."""
    begun = time.process_time()
    row: dict[str, Any] = {"seed": seed}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(prepared(folder / "start", seed, start, *PLAIN))
        twins = {"plain": PLAIN, "adversarial": (*ADVERSARIAL, *given)}
        shown: list[torch.Tensor] = []
        for twin, objective in twins.items():
            further = (f"init_from={folder / 'start'}", "optimizer.lr=1e-3")
            run = prepared(folder / twin, seed, steps, *objective, *further)
            train(run)
            originals, images, row[twin] = quality(Tokenizer.load(folder / twin), run)
            shown = [*(shown or [originals[:SHOWN]]), images[:SHOWN]]
    return row | {"cpu_seconds": round(time.process_time() - begun)}, shown


def prepared(out: Path, seed: int, steps: int, *overrides: str) -> Run:
    """A run of the default recipe at 32 pixels."""
    given = [*COMMON, *overrides, f"seed={seed}", f"out={out}", f"trainer.max_steps={steps}"]
    given.append(f"trainer.save_every={steps}")
    check_command("train", given)
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return build_run(compose("train", overrides=given), out)


@torch.no_grad()
def quality(tokenizer: Tokenizer, run: Run) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """Held-out tiles, their reconstructions, and numbers of these."""
    side = run.image_size
    tiles = islice(evaluation_loader(run.data.validation(side), BATCH, 0), TILES // BATCH)
    pixels = torch.cat([batch.image for batch in tiles])
    originals = to_float(pixels)
    images = torch.cat([tokenizer(part).image.clamp(-1, 1) for part in originals.split(BATCH)])
    distance = frechet_distance(gaussian(pixels), gaussian(to_uint8(images))).item()
    power = (spectrum(images) / spectrum(originals))[side // 4 + 1 :].mean().item()
    psnr = PSNR().per_image(to_uint8(images), pixels).mean().item()
    return originals, images, {"power": round(power, 3), "fd": round(distance, 1), "psnr": round(psnr, 2)}


def gaussian(pixels: torch.Tensor) -> FeatureGaussian:
    """Mean and covariance of the features of images."""
    found = torch.cat([extractor()(part).features for part in pixels.split(BATCH)]).double()
    return FeatureGaussian(len(found), found.mean(0), found.T.cov())


@lru_cache
def extractor() -> EffLite0:
    """The net of ``fd_efflite0_224``."""
    return EffLite0()


def spectrum(images: torch.Tensor) -> torch.Tensor:
    """Mean power of the brightness at each distance from frequency 0, in whole cycles per image."""
    grey = images.double().mean(1)
    side = grey.shape[-1]
    window = torch.hann_window(side, periodic=False, dtype=torch.float64)
    power = torch.fft.fft2((grey - grey.mean((1, 2), keepdim=True)) * window * window[:, None]).abs().square().mean(0)
    frequency = torch.fft.fftfreq(side, 1 / side, dtype=torch.float64)
    distance = (frequency.square() + frequency.square()[:, None]).sqrt().round().long().flatten()
    totals = torch.zeros(int(distance.max()) + 1, dtype=torch.float64).index_add_(0, distance, power.flatten())
    return (totals / distance.bincount())[: side // 2 + 1]


def write(page: Path, rows: list[dict[str, Any]], steps: tuple[int, int]) -> None:
    """Put the table into the page; the rest of it stays."""
    text = page.read_text() if page.exists() else f"# Does adversarial training sharpen?\n\n{START}\n{END}\n"
    lines = [
        START,
        f"`python benchmarks/sharpness.py`: the default recipe at 32 pixels, {steps[0]} steps of 16 photographs by the "
        f"absolute error, then {steps[1]} more as before (plain) or with `objective=offline` (adversarial). {TILES} "
        "held-out tiles; power is the mean ratio of the spectrum above half the Nyquist frequency to that of the "
        "originals, which have 1.",
        "",
        "| seed | power, plain | adversarial | `fd_efflite0_224`, plain | adversarial | PSNR (dB), plain | adversarial "
        "| CPU seconds |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        plain, other = row["plain"], row["adversarial"]
        cells = [
            f"{plain[name]:.{digits}f} | {other[name]:.{digits}f}"
            for name, digits in (("power", 3), ("fd", 1), ("psnr", 2))
        ]
        lines.append(f"| {row['seed']} | " + " | ".join(cells) + f" | {row['cpu_seconds']} |")
    lines += ["", f"![originals, plain and adversarial reconstructions, and their spectra]({page.stem}.png)"]
    block = "\n".join([*lines, END])
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(re.sub(f"{START}.*{END}", lambda _: block, text, flags=re.DOTALL))


def draw(path: Path, rows: list[dict[str, Any]], shown: list[torch.Tensor]) -> None:
    """Originals over both reconstructions, and the power of each frequency beside them."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = ("original", "plain", "adversarial")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 3.6), width_ratios=[2.2, 1])
    grid = torch.cat([torch.cat(list((images + 1) / 2), -1) for images in shown], -2).permute(1, 2, 0)
    left.imshow(grid.clamp(0, 1).numpy(), interpolation="nearest")
    side = shown[0].shape[-1]
    left.set_yticks([side * (row + 0.5) for row in range(3)], names)
    left.set_xticks([])
    for name, images, style in zip(names, shown, ("black", "tab:blue", "tab:red"), strict=True):
        right.plot(torch.linspace(0, 1, side // 2 + 1).numpy(), spectrum(images).numpy(), color=style, label=name)
    right.set_yscale("log")
    right.set_xlabel(f"frequency / Nyquist (these {SHOWN} images, seed {rows[0]['seed']})")
    right.set_ylabel("power")
    right.axvline(0.5, color="grey", linewidth=0.8)
    right.legend(frameon=False, fontsize=8)
    right.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
