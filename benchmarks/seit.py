"""Classifiers that learn from the tokens of Fashion-MNIST, with and without augmentation; writes docs/seit.jsonl.

python benchmarks/generation.py vq --runs DIR     first: the tokenizers, and the tokens of their 10,000 training images
python benchmarks/seit.py --runs DIR --steps 6000 three seeds, about eight minutes of one core for each run
python benchmarks/seit.py --page                  the table of docs/seit.md

The same small vision transformer (imtok classify) learns twice from the same store: from the tokens as they are, and
with augmentation=seit (arXiv 2303.11114, 2312.10105). Its accuracy is that on 1,000 images of the test split.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.generation import SIDE, imtok, spread
from benchmarks.recipe_table import between, table

PAGE, ROWS = ROOT / "docs" / "seit.md", ROOT / "docs" / "seit.jsonl"
START, END = "<!-- accuracy -->", "<!-- end of accuracy -->"
AUGMENTATIONS = ("none", "seit")
NET = ["classifier.trunk.width=64", "classifier.trunk.depth=2"]  # for a CPU


def main() -> None:
    """Measure, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="the folder that benchmarks/generation.py was given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--page", action="store_true", help="write the table")
    given = parser.parse_args()
    if given.page:
        between(PAGE, (START, END), ["", *table(page(stored())), ""])
        return
    for seed in given.seeds:
        for augmentation in AUGMENTATIONS:
            about = {"seed": seed, "augmentation": augmentation, "steps": given.steps}
            if any(about.items() <= row.items() for row in stored()):
                continue
            row = about | measured(given.runs / "fashion", about)
            with ROWS.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)


def measured(folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Train one classifier; what its summary says."""
    base = folder / f"vq_{about['seed']}"
    held_out, out = base / "test", base / f"classifier_{about['augmentation']}_{about['steps']}"
    if not held_out.is_dir():
        data = ["data=folder", f"data.path={folder / 'pictures' / 'val'}", f"image_size={SIDE}", "split=all"]
        imtok("export", f"tokenizer={base / 'run'}", *data, f"out={held_out}", "threads=1")
    words = [f"store={base / 'probe0' / 'tokens'}", f"val={held_out}", f"augmentation={about['augmentation']}"]
    if not (out / "summary.json").is_file():
        imtok("classify", *words, *NET, f"seed={about['seed']}", f"trainer.max_steps={about['steps']}", f"out={out}")
    found = json.loads((out / "summary.json").read_text())
    return {name: found[name] for name in ("accuracy", "chance", "bits_per_image", "pixel_bits_per_image")}


def stored() -> list[dict[str, Any]]:
    """What was measured."""
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def page(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """A line for each budget: the accuracies over seeds, and the bits that an image takes."""
    lines = list[dict[str, str]]()
    for steps in sorted({row["steps"] for row in rows}):
        line = {"steps of 64 images": f"{steps:,}"}
        for augmentation in AUGMENTATIONS:
            own = [row for row in rows if (row["steps"], row["augmentation"]) == (steps, augmentation)]
            line["seeds"] = str(len(own))
            line[f"accuracy in %, `augmentation={augmentation}`"] = spread([100 * row["accuracy"] for row in own])
            line["bits as tokens"], line["bits as pixels"] = (
                f"{own[0][key]:,.0f}" for key in ("bits_per_image", "pixel_bits_per_image")
            )
        lines.append(line)
    return lines


if __name__ == "__main__":
    main()
