"""What foretells a generator: tokenizers of Fashion-MNIST, each with its probe; writes docs/generation.jsonl.

python benchmarks/generation.py vq simvq               these tokenizers, three seeds: some ten minutes for each run
python benchmarks/generation.py --seeds 1 --steps 20 --samples 64 --runs DIR vq     to try it out
python benchmarks/generation.py --page                 the table of docs/generation.md, from what was measured

A tokenizer is trained, measured on held-out images (PSNR, pFD) and probed (rFD, bits, gFD): imtok train, eval, probe.
Debian's package dataset-fashion-mnist has the images. Without names all tokenizers are measured; what is in the file
already is not measured again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.recipe_table import between, table

PAGE, ROWS = ROOT / "docs" / "generation.md", ROOT / "docs" / "generation.jsonl"
START, END = "<!-- generation -->", "<!-- end of generation -->"
DATA = ["data=fashion_mnist", "image_size=32"]
PLAIN = [
    "encoder.patch_size=4", "decoder.patch_size=4", "decoder.depth=4", "decoder.up_channels=[]",
    "decoder.shortcut=false", "decoder.deblock=0",
]  # fmt: skip
LINE = [
    "encoder=titok_s", "encoder.patch_size=4", "encoder.width=128", "encoder.depth=4", "encoder.heads=4",
    "encoder.latents=32", "decoder=titok_pixels", "decoder.patch_size=4", "decoder.width=128", "decoder.depth=4",
    "decoder.heads=4", "optimizer.lr=1e-3",
]  # fmt: skip
# Tokens of 9 or 10 bits, or two slots of as many.
TOKENIZERS = {
    "vq": PLAIN,
    "simvq": [*PLAIN, "quantizer=simvq", "quantizer.codebook_size=512"],
    "fsq": [*PLAIN, "quantizer=fsq", "quantizer.levels=[8,8,8]"],
    "lfq": [*PLAIN, "quantizer=lfq_14", "quantizer.slot_bits=[9]"],
    "bsq": [*PLAIN, "quantizer=bsq_18", "quantizer.slot_bits=[9]"],
    "rq": [*PLAIN, "quantizer=rq_8", "quantizer.stages.0.codebook_size=512", "quantizer.depth=2"],
    "product": [*PLAIN, "quantizer=fqgan_dual", *(f"quantizer.parts.{part}.codebook_size=512" for part in (0, 1))],
    "perturbed": [*PLAIN, "regularizer=perturbation"],
    "one_d": LINE,
    "one_d_nested": [*LINE, "decoder.flexible=true", "regularizer=one_d_piece"],
}
COLUMNS = {
    "rfd": "rFD", "pfd": "pFD", "psnr": "PSNR (dB)", "bits_per_image": "bits per image, prior", "gfd": "gFD",
    "unigram_gfd": "gFD, unigram",
}  # fmt: skip


def main() -> None:
    """Measure what the command line asks for, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(TOKENIZERS)}")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--steps", type=int, default=400, help="of a tokenizer; its prior takes 1,500")
    parser.add_argument(
        "--prior", nargs="*", default=[], help="further words of imtok probe: another size of the prior"
    )
    parser.add_argument("--samples", type=int, default=1000, help="of each probe")
    parser.add_argument("--runs", type=Path, help="folder that keeps the runs")
    parser.add_argument("--page", action="store_true", help="write the table")
    given = parser.parse_args()
    if given.page:
        between(PAGE, (START, END), ["", *page(stored()), ""])
        return
    with tempfile.TemporaryDirectory() as scratch:
        for name in given.names or TOKENIZERS:
            for seed in range(given.seeds):
                about = {
                    "tokenizer": name,
                    "seed": seed,
                    "steps": given.steps,
                    "n": given.samples,
                    "prior": given.prior,
                }
                if any(about.items() <= row.items() for row in stored()):
                    continue
                row = about | measured(about, (given.runs or Path(scratch)) / f"{name}_{seed}")
                with ROWS.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, flush=True)


def measured(about: dict[str, Any], folder: Path) -> dict[str, float]:
    """Train, measure and probe one tokenizer."""
    seed, count = about["seed"], about["n"]
    run, report, probe = folder / "run", folder / "report", folder / "probe"
    budget = ["trainer.batch_size=64", "trainer.workers=0", f"trainer.max_steps={about['steps']}", f"seed={seed}"]
    imtok("train", *DATA, *TOKENIZERS[about["tokenizer"]], *budget, f"out={run}")
    imtok("eval", f"tokenizer={run}", f"n={count}", "metrics=[psnr,pfid]", "protocol=offline", f"out={report}")
    imtok("probe", f"tokenizer={run}", f"n={count}", f"seed={seed}", *about["prior"], f"out={probe}")
    of_images = json.loads((report / "report.json").read_text())["metrics"]
    found = json.loads((probe / "report.json").read_text())["metrics"]
    named = {"pfd": ("pfd_", of_images), "rfd": ("rfd_", found), "gfd": ("gfd_", found)}
    distances = {name: first(metrics, prefix) for name, (prefix, metrics) in named.items()}
    return {
        "psnr": of_images["psnr"],
        **distances,
        "unigram_gfd": first(found, "unigram_gfd_"),
        "bits_per_image": found["bits_per_image"],
        "bits_per_token": found["bits_per_token"],
        "bigram_bits_per_token": found["bigram_bits_per_token"],
    }


def imtok(*words: str) -> None:
    """Run a command of imtok."""
    subprocess.run([sys.executable, "-m", "imtok", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def first(metrics: dict[str, float], prefix: str) -> float:
    """The number whose name begins so; the extractor's name follows."""
    return next(value for name, value in metrics.items() if name.startswith(prefix))


def stored() -> list[dict[str, Any]]:
    """What was measured."""
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def page(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The table of means over seeds, and how each number goes with gFD."""
    names = list(dict.fromkeys(row["tokenizer"] for row in rows))
    lines = []
    for name in names:
        own = [row for row in rows if row["tokenizer"] == name]
        means = {title: spread([row[key] for row in own]) for key, title in COLUMNS.items()}
        lines.append({"tokenizer": f"`{name}`", "seeds": str(len(own)), **means})
    found = []
    for key in ("rfd", "pfd", "psnr", "bits_per_image"):
        ranks = [rank_correlation(rows, key, seed) for seed in sorted({row["seed"] for row in rows})]
        found.append({"number": COLUMNS[key], "Spearman's correlation with gFD": spread(ranks)})
    return [*table(lines), "", *table(found)]


def spread(values: Sequence[float]) -> str:
    """Mean, and the least and the greatest where there are several."""
    mean = f"{np.mean(values):.4g}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.4g} to {max(values):.4g})"


def rank_correlation(rows: Sequence[dict[str, Any]], key: str, seed: int) -> float:
    """Spearman's, over the tokenizers of one seed; ties are not expected of measured numbers."""
    own = [row for row in rows if row["seed"] == seed]
    ranks = [np.argsort(np.argsort([row[name] for row in own])) for name in (key, "gfd")]
    return float(np.corrcoef(*ranks)[0, 1]) if len(own) > 2 else float("nan")


if __name__ == "__main__":
    main()
