"""Train every recipe at size=tiny, as it is, and compare it with a picture of one colour; write docs/recipes.md.

python benchmarks/tiny.py                  every recipe of configs/experiment that has changed since it was measured
python benchmarks/tiny.py titok_bl64 ibq   these, whether they have changed or not
python benchmarks/tiny.py --page           the page alone, from the rows so far
python benchmarks/tiny.py titok_bl64 --with ema.decay=0.95 trainer.max_steps=200     to try settings out; writes nothing

Each recipe is trained for its own number of steps and measured on the held-out tiles, with the averaged weights, as
``imtok train`` does it. The bar is what no token is needed for: every held-out tile painted in the mean colour of the
training photographs. The mean colour of the tile itself is shown beside it, and needs 24 bits per tile.

Recipes that learn the codes of another tokenizer make no picture while they learn. They are trained and listed, and the
bar does not hold for them. Recipes that are one net at size=tiny are trained once. Of each, docs/tiny.jsonl keeps what
was measured, with a digest of its config: the page calls the settings of a row older if they have changed since.

Exit code 1 if a recipe that makes pictures was measured here and is not above the bar.
"""

import argparse
import hashlib
import json
import logging
import sys
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))

from recipe_table import PAGE, between, composed, kind, names, read_rows, table

from imtok.build import build_data
from imtok.commands.train import build_run
from imtok.data.base import Data
from imtok.data.order.loader import evaluation_loader
from imtok.data.told import with_channels
from imtok.measures.psnr import PSNR
from imtok.training.run import train

CODES = {"ProxyObjective", "ALITDistillation", "KARLDistillation"}  # they learn codes of another tokenizer
ROWS = ROOT / "docs" / "tiny.jsonl"
START, END = "<!-- tiny -->", "<!-- end of tiny -->"


def main() -> None:
    """Train what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="recipes; none = all whose configs have changed")
    parser.add_argument("--with", nargs="+", default=[], dest="changes", metavar="KEY=VALUE", help="for each of them")
    parser.add_argument("--rows", type=Path, default=ROWS, help="a line is added for each recipe measured")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(names()))
    if unknown:
        parser.error(f"no such recipe: {', '.join(unknown)}")
    for logger in ("lightning", "lightning.pytorch", "imtok"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    known = {} if arguments.changes else {row["config"]: row for row in fresh(read_rows(arguments.rows))}
    asked = arguments.names or [name for name in names() if digest(name, arguments.changes) not in known]
    done, measured = dict[str, dict[str, Any]](), list[dict[str, Any]]()
    for name in [] if arguments.page else asked:
        same = digest(name, arguments.changes)
        if same not in done:
            done[same] = measure(name, arguments.changes)
        measured.append(done[same] | {"recipe": name, "config": same})
        print("\n".join(table([cells(measured[-1])])[0 if len(measured) == 1 else -1 :]), flush=True)
        if not arguments.changes:
            with arguments.rows.open("a") as file:
                file.write(json.dumps(measured[-1]) + "\n")
    if not arguments.changes:
        latest = read_rows(arguments.rows)
        found = {row["config"]: row for row in fresh(latest)}
        rows = list[dict[str, Any]]()
        for name in names():
            same = found.get(digest(name, []))
            if row := same or latest.get(name):
                rows.append(row | {"recipe": name, "settings": "as now" if same else "older"})
        between(PAGE, (START, END), table([cells(row) for row in rows]) if rows else [])
    below = [row["recipe"] for row in measured if row["makes"] == "pictures" and row["psnr"] <= row["colour"]]
    if below:
        sys.exit(f"not above the mean colour: {', '.join(below)}")


def fresh(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of configs that have not changed since."""
    return [row for name, row in rows.items() if name in names() and row["config"] == digest(name, [])]


@cache
def _composed_text(name: str, changes: tuple[str, ...]) -> str:
    config = composed(name, "size=tiny", *changes)
    config.name, config.note = "", None
    return OmegaConf.to_yaml(OmegaConf.create(said(OmegaConf.to_container(config, resolve=True))), sort_keys=True)


def said(plain: Any) -> Any:
    """A config without the keys that are null or empty, and without the modules of classes.

    A new key that is off everywhere changes no recipe, nor does a class that moves.
    """
    if isinstance(plain, dict):
        kept = {key: said(part) for key, part in plain.items() if part is not None and part != {}}
        return kept | ({"_target_": kind(plain)} if "_target_" in plain else {})
    return [said(part) for part in plain] if isinstance(plain, list) else plain


def digest(name: str, changes: list[str]) -> str:
    """Of a recipe's config at size=tiny, without its name: the sizes of one family are often one there."""
    return hashlib.sha256(_composed_text(name, tuple(changes)).encode()).hexdigest()[:16]


def measure(name: str, changes: list[str]) -> dict[str, Any]:
    """Train one recipe, and what came of it."""
    quick = ["trainer.pictures_every=0", "trainer.workers=0", "trainer.accelerator=cpu"]
    with tempfile.TemporaryDirectory() as aside:
        out = Path(aside) / name
        config = composed(name, "size=tiny", *quick, *changes, f"out={out}")
        plain: Any = OmegaConf.to_container(config, resolve=True)
        began = time.process_time()
        for stage in config.stages or ():
            config.init_from = str(Path(aside) / stage)
            train(build_run(composed(stage, "size=tiny", *quick, f"out={config.init_from}"), Path(config.init_from)))
        outcome = train(build_run(config, out))
        seconds = time.process_time() - began
    if outcome.report is None:
        sys.exit(f"{name}: stopped at step {outcome.step} by signal {outcome.signal}")
    of_training, of_tile = mean_colours(OmegaConf.to_yaml(plain["data"]), plain["image_size"], plain["channels"])
    return {
        "recipe": name,
        "makes": "codes" if kind(plain["objective"]) in CODES else "pictures",
        "pixels": plain["image_size"],
        "steps": outcome.step,
        "psnr": outcome.report.metrics["psnr"],
        "colour": of_training,
        "colour_of_tile": of_tile,
        "seconds": seconds,
    }


def cells(row: dict[str, Any]) -> dict[str, str]:
    """What was measured, as the cells of a row."""
    return {
        "recipe": f"`{row['recipe']}`",
        "makes": row["makes"],
        "pixels": str(row["pixels"]),
        "steps": str(row["steps"]),
        "PSNR (dB)": f"{row['psnr']:.2f}",
        "mean colour (dB)": f"{row['colour']:.2f}",
        "above": f"{row['psnr'] - row['colour']:+.2f}",
        "colour of the tile (dB)": f"{row['colour_of_tile']:.2f}",
        "processor (s)": f"{row['seconds']:.0f}",
        "settings": row.get("settings", "as now"),
    }


@cache
def mean_colours(section: str, side: int, channels: int) -> tuple[float, float]:
    """PSNR in dB of the held-out images painted in the mean colour of the training photographs, and in their own."""
    data: Data = build_data({"data": OmegaConf.to_container(OmegaConf.create(section))})
    sums, pixels = torch.zeros(channels, dtype=torch.float64), 0
    for batch in evaluation_loader(with_channels(data.evaluation(side, "train"), channels), 64, 0):
        sums += batch.image.double().sum((0, 2, 3))
        pixels += batch.image[:, 0].numel()
    colour = (sums / pixels).round()[None, :, None, None]
    one, own = PSNR(), PSNR()
    for batch in evaluation_loader(with_channels(data.validation(side), channels), 64, 0):
        one.update(colour.to(batch.image.dtype).expand_as(batch.image), batch.image)
        mean = batch.image.double().mean((2, 3), keepdim=True).round().to(batch.image.dtype)
        own.update(mean.expand_as(batch.image), batch.image)
    return one.compute().item(), own.compute().item()


if __name__ == "__main__":
    main()
