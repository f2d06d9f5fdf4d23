"""Train every recipe at size=tiny on the bundled photographs, resume it, overfit it, and write docs/recipes.md.

python benchmarks/recipes.py                   every recipe of configs/experiment, then the page
python benchmarks/recipes.py titok_s128 ibq    these; several processes may share the file of rows
python benchmarks/recipes.py --page            the page alone, from the configs and the rows so far

Of each recipe a line of docs/recipes.jsonl says what was measured:

* 100 steps of 8 images with its full objective. The loss without the adversary's term, mean over the first and over the
  last tenth of the steps, has to fall.
* From the checkpoint at step 60 another run goes on: at step 100 it must hold the same bits in every file.
* 8 images are learnt by heart in 200 steps at a learning rate of 2e-3, by pixel losses alone (or by its codes, velocity
  or noise, where the objective is that), without regulariser: 20 dB for a CNN, 17 dB for a transformer, else 0.7 times
  the loss at step 20.

Exit code 1 if one of these fails.
"""

import argparse
import copy
import csv
import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import OmegaConf
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))

from recipe_table import PAGE, composed, kind, names, read_rows, write_page

from imtok.build import build_data, build_part, build_tokenizer
from imtok.commands.train import build_run
from imtok.data.told import told, with_channels
from imtok.files import read_json
from imtok.objectives.base import Objective
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer
from imtok.training.run import train
from imtok.types import Batch

ROWS = ROOT / "docs" / "recipes.jsonl"
TENTHS = 10  # loss of the first and of the last tenth of the steps
IMAGES, OVERFIT_STEPS, OVERFIT_RATE = 8, 200, 2e-3
CONVOLUTIONAL, TRANSFORMER, RATIO = 20.0, 17.0, 0.7  # dB, dB, and of the loss at step 20
ADVERSARIAL = ("adversarial", "adversarial_estimate", "adversarial_tokenize")  # KARL has two passes
PIXELS = {"L1Loss", "L2Loss", "KnownL2Loss"}


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="recipes; none = all")
    parser.add_argument("--steps", type=int, default=100, help="optimiser steps, a multiple of 10, at least 20")
    parser.add_argument("--rows", type=Path, default=ROWS, help="a line is added for each recipe measured")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page, written between its two marks")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(names()))
    if unknown or arguments.steps < 2 * TENTHS or arguments.steps % TENTHS:
        parser.error(f"no such recipe: {', '.join(unknown)}" if unknown else "--steps must be 20, 30, 40, ...")
    for logger in ("lightning", "lightning.pytorch", "imtok"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    failed, done = [], dict[str, dict[str, Any]]()
    for name in [] if arguments.page else arguments.names or names():
        same = tiny(name)
        if same not in done:
            done[same] = measure(name, arguments.steps)
        row = done[same] | {"recipe": name}
        with arguments.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        if not (row["last"] < row["first"] and row["bitwise"] and row["learnt"]):
            failed.append(name)
    if arguments.page or not arguments.names:
        write_page(arguments.out, read_rows(arguments.rows))
    if failed:
        sys.exit(
            f"the loss did not fall, the run did not go on bitwise, or 8 images were not learnt: {', '.join(failed)}"
        )


def tiny(name: str) -> str:
    """A recipe's config at size=tiny: the sizes of one family are often one there, and are measured once."""
    config = composed(name, "size=tiny")
    config.name = ""
    return OmegaConf.to_yaml(config, resolve=True, sort_keys=True)


def measure(name: str, steps: int) -> dict[str, Any]:
    """Everything about one recipe."""
    resumed_at = steps * 6 // 10
    with tempfile.TemporaryDirectory() as folder:
        straight, again = Path(folder) / "straight", Path(folder) / "again"
        began = time.process_time()
        first, last = losses(run(name, straight, steps, resumed_at))
        seconds = (time.process_time() - began) / steps
        run(name, again, steps, resumed_at, f"ckpt={straight / 'checkpoints' / f'step_{resumed_at}'}")
        bitwise = hashes(straight, steps) == hashes(again, steps)
    return {
        "recipe": name,
        "steps": steps,
        "resumed_at": resumed_at,
        "first": first,
        "last": last,
        "bitwise": bitwise,
        "seconds": seconds,
        **overfit(name),
    }


def run(name: str, out: Path, steps: int, save_every: int, *overrides: str) -> Path:
    """Train at size=tiny, with a checkpoint on the way and one at the end."""
    quick = [f"trainer.max_steps={steps}", f"trainer.save_every={save_every}", f"trainer.log_every={steps // TENTHS}"]
    quick += [f"trainer.batch_size={IMAGES}", "trainer.pictures_every=0", "trainer.workers=0", "trainer.threads=1"]
    quick += ["data.crops_per_photo=64", "data.held_out=[chelsea]", "trainer.accelerator=cpu", f"out={out}"]
    outcome = train(build_run(composed(name, "size=tiny", *quick, *overrides), out))
    if outcome.signal:
        sys.exit(f"{name}: stopped by signal {outcome.signal} at step {outcome.step}")
    return out


def losses(folder: Path) -> tuple[float, float]:
    """Means over the first and over the last tenth of the steps, without what the adversary adds."""
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    found = []
    for row in (rows[0], rows[-1]):
        added = [float(row.get(f"{name}_weighted") or row.get(name) or 0) for name in ADVERSARIAL]
        found.append(float(row["loss"]) - sum(added))
    return found[0], found[1]


def hashes(folder: Path, step: int) -> dict[str, str]:
    """Of every file of a checkpoint: weights, averages, optimisers and counters."""
    manifest: Any = read_json(folder / "checkpoints" / f"step_{step}" / "manifest.json")
    return {name: about["sha256"] for name, about in manifest["files"].items()}


def overfit(name: str) -> dict[str, Any]:
    """Learn a few images by heart: the error afterwards, or how far the loss has fallen since step 20."""
    config = composed(name, "size=tiny", "data.held_out=[chelsea]")
    plain: Any = OmegaConf.to_container(config, resolve=True)
    plain["regularizer"] = None
    if plain["stages"]:
        plain["freeze"] = []  # here there is no earlier stage
    section = plain["objective"] = without_nets(plain["objective"])
    tokenizer, objective = build_tokenizer(plain), cast(Objective, build_part(plain, "objective"))
    images = with_channels(
        told(build_data(plain).validation(plain["image_size"]), tokenizer.condition), plain["channels"]
    )
    batch = next(iter(images.spread_loader(IMAGES)))
    trace = fit(tokenizer, objective, batch)
    if "losses" not in section:
        ratio = sum(trace[-TENTHS:]) / sum(trace[20 - TENTHS // 2 : 20 + TENTHS // 2])
        return {"psnr": None, "ratio": ratio, "learnt": ratio < RATIO}
    psnr = quality(tokenizer, batch)
    wanted = CONVOLUTIONAL if kind(plain["encoder"]) == "CNNEncoder" else TRANSFORMER
    return {"psnr": psnr, "ratio": None, "learnt": psnr > wanted}


def without_nets(section: dict[str, Any]) -> dict[str, Any]:
    """An objective with image losses of pixels alone, which hides nothing."""
    left_out = ("adversary", "alignments", "prior")
    plain = {key: value for key, value in copy.deepcopy(section).items() if key not in left_out}
    if "losses" in plain:
        plain["losses"] = {key: part for key, part in plain["losses"].items() if kind(part) in PIXELS}
    if kind(plain) == "MaskedReconstruction":
        plain["share"] = 0.0
    if kind(plain) == "PostTrainingObjective":  # here all parts learn
        plain["_target_"] = "imtok.objectives.reconstruction.ReconstructionObjective"
    return plain


def fit(tokenizer: Tokenizer, objective: Objective, batch: Batch) -> list[float]:
    """Train on one batch alone; the loss of every step."""
    tokenizer.train()
    learning: nn.Module = nn.ModuleList([tokenizer, objective])
    weights = [parameter for parameter in learning.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=OVERFIT_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    with torch.no_grad():
        latents = tokenizer.encoder(to_float(batch.image), None, tokenizer.condition_of(batch)).values
        tokenizer.quantizer.start(latents.flatten(0, 1))
    trace = []
    for step in range(OVERFIT_STEPS):
        torch.manual_seed(step)
        found = objective(tokenizer, batch, step, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        found.total.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        objective.follow(tokenizer)
        tokenizer.quantizer.update(found.shown.quantized.stats)
        trace.append(float(found.total.detach()))
    return trace


@torch.no_grad()
def quality(tokenizer: Tokenizer, batch: Batch) -> float:
    """Mean PSNR in dB of what the tokenizer makes of the images."""
    image = to_float(batch.image)
    made = tokenizer.eval()(image, condition=tokenizer.condition_of(batch)).image
    error = (made.clamp(-1, 1) - image).square().mean((1, 2, 3))
    return float((10 * torch.log10(4 / error)).mean())


if __name__ == "__main__":
    main()
