"""What a prior costs and gains: trains small tokenizers with and without feeling one; writes docs/with_prior.md.

python benchmarks/with_prior.py                         ETT's and LARP's prior, 3 seeds: twelve runs of some minutes
python benchmarks/with_prior.py --seeds 1 --steps 50    to try it out
python benchmarks/with_prior.py --runs DIR              keeps the runs there, and trains only those that are missing

Each prior has a run in which the tokenizer does not feel it (weight 0) and one in which it does. With the weights of
the last step: PSNR, and how many bits a token costs by the run's own prior, which reads the right tokens before it. On
crops of the photographs that were trained on which training has not drawn, and on three photographs that were held out.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.recipe_table import between, table
from imtok.build import build_data, build_part, build_tokenizer
from imtok.commands.train import build_run
from imtok.config import register_schemas
from imtok.data.order.loader import evaluation_loader
from imtok.folders import config_folder
from imtok.overrides import in_full
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer
from imtok.training.checkpoints import load
from imtok.training.run import train
from imtok.training.told_sizes import tell_sizes
from imtok.types import Batch

PAGE = ROOT / "docs" / "with_prior.md"
START, END = "<!-- with prior -->", "<!-- end of with prior -->"
WEIGHTS = {"ett": 0.005, "larp": 0.005}
WORDS = [
    "objective.prior.width=96", "objective.prior.depth=2", "objective.prior.heads=4", "trainer.batch_size=16",
    "trainer.threads=1", "trainer.workers=0", "trainer.pictures_every=0", "trainer.log_every=20",
]  # fmt: skip


class Measured(NamedTuple):
    """Mean PSNR in dB, bits per token by the prior, and entropy in bits of the codes by their frequency alone."""

    psnr: float
    bits: float
    unigram: float


def main() -> None:
    """Train and measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--steps", type=int, default=400, help="optimiser steps of a run")
    parser.add_argument("--runs", type=Path, help="folder that keeps the runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for prior, weight in WEIGHTS.items():
            for seed in range(arguments.seeds):
                given = (prior, seed, arguments.steps, arguments.runs or Path(scratch))
                rows.append(cells(prior, seed, measured(0.0, *given), measured(weight, *given)))
                print("\n".join(table(rows)[0 if len(rows) == 1 else -1 :]), flush=True)
    if arguments.seeds == 3 and arguments.steps == 400:
        between(PAGE, (START, END), ["", *table(rows), ""])


def cells(prior: str, seed: int, without: dict[str, Measured], felt: dict[str, Measured]) -> dict[str, str]:
    """A row of the table."""
    row = {"prior": f"`{prior}` at {WEIGHTS[prior]:g}", "seed": str(seed)}
    for name, (before, after) in {name: (one, felt[name]) for name, one in without.items()}.items():
        row[f"PSNR, {name}"] = f"{before.psnr:.2f} → {after.psnr:.2f} dB ({after.psnr - before.psnr:+.2f})"
        row[f"bits per token, {name}"] = (
            f"{before.bits:.2f} → {after.bits:.2f} ({100 * (after.bits / before.bits - 1):+.1f} %)"
        )
        row[f"perplexity, {name}"] = f"{2**before.unigram:.0f} → {2**after.unigram:.0f}"
    return row


def measured(weight: float, prior: str, seed: int, steps: int, runs: Path) -> dict[str, Measured]:
    """Train a run, unless it is there, and measure it."""
    folder = runs / f"{prior}_{weight:g}_{seed}"
    if not (folder / "tokenizer").exists():
        words = [f"objective={prior}", *WORDS, f"objective.prior.weight={weight}"]
        words += [f"seed={seed}", f"trainer.max_steps={steps}", f"out={folder}"]
        register_schemas()
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            train(build_run(compose("train", overrides=in_full("train", words)), folder))
    return measure(folder)


@torch.no_grad()
def measure(folder: Path) -> dict[str, Measured]:
    """What a run that has come to its end is worth, on images that it was not trained on."""
    plain = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(folder / "config.yaml")))
    tokenizer = build_tokenizer(plain)
    tell_sizes(plain["objective"], tokenizer, plain["image_size"])
    objective = build_part(plain, "objective")
    weights = load(folder / "checkpoints" / f"step_{plain['trainer']['max_steps']}").model
    for name, part in (("tokenizer.", tokenizer), ("objective.", objective)):
        part.load_state_dict({key.removeprefix(name): value for key, value in weights.items() if key.startswith(name)})
        part.eval()
    objective.prior.rounds = 1  # of LARP's: without tokens that it draws itself
    data, side = build_data(plain), plain["image_size"]
    others = data.train(side, seed=plain["seed"] + 1000)
    return {
        "other crops": _measure(tokenizer, objective, evaluation_loader(others, 32, 0, 0, 4)),  # a quarter of them
        "other photographs": _measure(tokenizer, objective, evaluation_loader(data.evaluation(side), 32)),
    }


def _measure(tokenizer: Tokenizer, objective: Any, batches: Iterable[Batch]) -> Measured:
    images, psnr, nats, counts = 0, 0.0, 0.0, torch.zeros(tokenizer.quantizer.vocab_sizes[0])
    for batch in batches:
        target = to_float(batch.image)
        latents = tokenizer.encoder(target).values
        quantized = tokenizer.quantizer(latents)
        image = tokenizer.decoder(quantized.latents, target.shape[-2:], None, None).clamp(-1, 1)
        psnr -= 10 * ((image - target) / 2).square().mean((1, 2, 3)).log10().sum().item()
        seen = objective.prior.look(quantized, tokenizer.quantizer, latents)
        nats += objective.prior(seen, 0).item() * len(latents)
        images += len(latents)
        counts += torch.bincount(quantized.ids.flatten(), minlength=len(counts))
    share = counts / counts.sum()
    entropy = -(share * share.clamp_min(1e-30).log2()).sum().item()
    return Measured(psnr / images, nats / images / math.log(2), entropy)


if __name__ == "__main__":
    main()
