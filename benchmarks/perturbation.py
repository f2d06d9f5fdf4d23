"""Does latent perturbation help? Trains twins with and without; writes docs/evidence/perturbation.*.

    python benchmarks/perturbation.py                       three seeds, some minutes on one core
    python benchmarks/perturbation.py --seeds 0 --steps 50  this one, to try it out

The twins of a seed have the same data, seed, net and number of steps; one of them is trained with
regularizer=perturbation. Measured on the held-out photographs: PSNR and the Fréchet distance of the offline stand-in,
as they are and with ids replaced by near ones (pFID's perturbation). Needs `pip install -e '.[offline]'`. Exit code 1
unless the perturbed twin has the lower mean distance over the grid at every seed.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import torch
from hydra import compose, initialize_config_dir

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from imtok.commands.train import build_run
from imtok.config import check_command, register_schemas
from imtok.data.order.loader import evaluation_loader
from imtok.folders import config_folder
from imtok.measures.evaluate import evaluate
from imtok.measures.named import sections
from imtok.measures.protocol import Protocol, prepare
from imtok.measures.settings import Settings
from imtok.tokenizer import Tokenizer
from imtok.training.run import train

PLAIN = "decoder.depth=4 decoder.up_channels=[] decoder.shortcut=false decoder.deblock=0 data.colours=0"
NET = ["image_size=64", *PLAIN.split()]
REGULARIZER = ["regularizer=perturbation", "regularizer.alpha=1.0", "regularizer.beta=0.5", "regularizer.delta=128"]
TWINS = {"plain": [], "perturbed": REGULARIZER}
ALPHAS, DELTAS = (0.5, 1.0), (128,)
IMAGES = 128
COLOURS = {"plain": "#999999", "perturbed": "#c44e52"}


def main() -> None:
    """Train, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="rows of others stay in the .jsonl")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument(
        "--page", type=Path, default=ROOT / "docs" / "evidence" / "perturbation.md", help="rows and plot go beside it"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore", message="a Fréchet distance over")
    stored = arguments.page.with_suffix(".jsonl")
    lines = stored.read_text().splitlines() if stored.exists() else []
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    for seed in arguments.seeds:
        new = [{"seed": seed, "twin": name, **measure(name, seed, arguments.steps)} for name in TWINS]
        print(json.dumps(new), flush=True)
        rows = sorted([row for row in rows if row["seed"] != seed] + new, key=lambda row: row["seed"])
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        write(arguments.page, rows, arguments.steps)
        draw(arguments.page.with_suffix(".png"), rows)
    worse = [one["seed"] for one, other in pairs(rows) if other["perturbed"] >= one["perturbed"]]
    if worse:
        sys.exit(f"perturbation did not lower the distance at seeds {worse}")


def measure(name: str, seed: int, steps: int) -> dict[str, Any]:
    """Train one twin and measure it."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [*NET, *TWINS[name], f"seed={seed}", f"out={folder}/run", f"trainer.max_steps={steps}"]
        overrides += [f"trainer.save_every={steps}", "trainer.pictures_every=0", "trainer.batch_size=16"]
        overrides += [
            "optimizer.warmup_steps=20",
            "trainer.threads=1",
            "trainer.accelerator=cpu",
            f"trainer.log_every={steps}",
        ]
        check_command("train", overrides)
        register_schemas()
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            run = build_run(compose("train", overrides=overrides), Path(folder) / "run")
        begun = time.perf_counter()
        train(run)
        trained = time.perf_counter() - begun
        tokenizer = Tokenizer.load(Path(folder) / "run")
    settings = Settings(
        sections(("psnr", "rfid", "codes", "pfid"), pfid={"alphas": list(ALPHAS), "deltas": list(DELTAS)}),
        protocol=Protocol("offline"),
    )
    images = prepare(run.data.validation(run.image_size), settings.protocol, IMAGES)
    report = evaluate(tokenizer, evaluation_loader(images, 16), settings=settings)
    values = report.metrics
    distance = next(name for name in values if name.startswith("fd_"))
    return {
        "psnr": values["psnr"],
        "usage": report.slots[0]["usage"],
        "distance": values[distance],
        "perturbed": values[f"p{distance}"],
        "grid": report.tables["pfid"]["grid"],
        "images": report.images,
        "seconds": (round(trained), round(time.perf_counter() - begun - trained)),
    }


def pairs(rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The twins of each seed, the plain one first."""
    return [(rows[at], rows[at + 1]) for at in range(0, len(rows), 2)]


def write(page: Path, rows: list[dict[str, Any]], steps: int) -> None:
    """The page."""
    settings = " ".join(REGULARIZER)
    lines = [
        "# Latent perturbation",
        "",
        "In training, RobustTok (arXiv 2503.08354) shows the decoder codes that are slightly wrong, since a generator",
        "will write such codes. `regularizer=perturbation` draws images with probability beta. In these images, it",
        "draws ids with probability alpha, and replaces each by one of the delta nearest codes. A part",
        "alpha (1 - 1 / delta) of the ids of a drawn image changes. `metrics.csv` holds the changed share as",
        "`perturbed`. `regularizer=robusttok` has the published settings.",
        "",
        "`python benchmarks/perturbation.py` trains twins on the bundled photographs. Each is trained for",
        f"{steps} steps of 16 images. An image of 64 x 64 pixels has 64 ids of 512 codes. Both twins have",
        f"`{PLAIN}`. One of them also has",
        f"`{settings}`. They are measured on",
        f"{rows[0]['images']} tiles of held-out photographs by the offline stand-in, whose distance is no FID.",
        f"*Perturbed* is its mean over alpha {', '.join(map(str, ALPHAS))} and delta {', '.join(map(str, DELTAS))},",
        "with every image perturbed.",
        "",
        f"![distance over alpha]({page.with_suffix('.png').name})",
        "",
        "| seed | twin | PSNR (dB) | codes used | distance | perturbed |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        numbers = f"{row['psnr']:.2f} | {row['usage']:.2f} | {row['distance']:.1f} | {row['perturbed']:.1f}"
        lines.append(f"| {row['seed']} | {row['twin']} | {numbers} |")
    change = [other["perturbed"] / one["perturbed"] - 1 for one, other in pairs(rows)]
    cost = [other["psnr"] - one["psnr"] for one, other in pairs(rows)]
    lines += [
        "",
        f"The perturbed distance changes by {', '.join(f'{100 * value:+.0f} %' for value in change)}. The PSNR of "
        f"unperturbed codes changes by {', '.join(f'{value:+.2f} dB' for value in cost)}.",
        "",
    ]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines))


def draw(path: Path, rows: list[dict[str, Any]]) -> None:
    """A panel per delta: the distance over alpha, a line for each tokenizer."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(DELTAS), figsize=(3.6 * len(DELTAS), 3), sharey=True, squeeze=False)
    for axis, delta in zip(axes[0], DELTAS, strict=True):
        for row in rows:
            points = [(0.0, row["distance"])]
            points += [(point["alpha"], point["value"]) for point in row["grid"] if point["delta"] == delta]
            label = row["twin"] if row["seed"] == rows[0]["seed"] and axis is axes[0][0] else None
            axis.plot(*zip(*points, strict=True), marker="o", color=COLOURS[row["twin"]], linewidth=1, label=label)
        axis.set_title(f"delta {delta}", fontsize=10)
        axis.set_xlabel("alpha: share of ids drawn anew")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("distance (stand-in)")
    axes[0][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
