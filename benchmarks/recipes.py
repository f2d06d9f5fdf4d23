"""Train every recipe at size=tiny for 100 steps on the bundled photographs; write the table of docs/recipes.md.

python benchmarks/recipes.py                          every recipe of configs/experiment
python benchmarks/recipes.py --steps 20 titok_s128    this one, to try it out; the rows of others stay

Exit code 1 if a loss does not fall.
"""

import argparse
import csv
import logging
import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from imtok.build import build_run, build_tokenizer
from imtok.config import check_command, config_folder, register_schemas
from imtok.training.run import train

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "recipes.md"
START, END = "<!-- recipes -->", "<!-- end of recipes -->"
COLUMNS = (
    "recipe", "system", "paper", "tokens", "bits per image", "parameters", "frozen space", "objective", "first loss",
    "last loss",
)  # fmt: skip
SHARE = 10  # loss of the first and of the last tenth of the steps


def main() -> None:
    """Train what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="recipes; none = all")
    parser.add_argument("--steps", type=int, default=100, help="optimiser steps of 8 images each, at least 10")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the table goes, between its two marks")
    arguments = parser.parse_args()
    known = sorted(path.stem for path in (config_folder() / "experiment").glob("*.yaml"))
    unknown = sorted(set(arguments.names) - set(known))
    if unknown or arguments.steps < SHARE:
        parser.error(f"no such recipe: {', '.join(unknown)}" if unknown else f"--steps must be at least {SHARE}")
    logging.getLogger("lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    stuck = []
    for name in arguments.names or known:
        measured = facts(name) | losses(name, arguments.steps)
        if not measured["last"] < measured["first"]:
            stuck.append(name)
        write(arguments.page, name, line(name, measured), arguments.steps)
        print(line(name, measured), flush=True)
    if stuck:
        sys.exit(f"the loss did not fall: {', '.join(stuck)}")


def plain_config(name: str, *overrides: str) -> Any:
    """The composed config of a recipe, checked."""
    given = [f"experiment={name}", *overrides]
    check_command("train", given)
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose("train", overrides=given)


def facts(name: str) -> dict[str, Any]:
    """What is known without training: of the published size, on the meta device."""
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        missing = OmegaConf.missing_keys(compose("train", overrides=[f"experiment={name}"]))
    paths = [f"{key}=nowhere" for key in sorted(missing)]  # of images and of published weights
    plain: Any = OmegaConf.to_container(plain_config(name, *paths), resolve=True)
    with torch.device("meta"):
        tokenizer = build_tokenizer(plain)
    side = plain["image_size"]
    tokens = tokenizer.num_tokens((side, side))
    space = sum(parameter.numel() for parameter in tokenizer.space.parameters()) if tokenizer.space is not None else 0
    quantizer = tokenizer.quantizer
    return {
        **about(name),
        "tokens": tokens,
        "bits": tokens * quantizer.bits_per_token if quantizer.vocab_sizes else None,
        "parameters": sum(parameter.numel() for parameter in tokenizer.parameters()) - space,
        "space": space,
    }


def about(name: str) -> dict[str, str]:
    """System, paper and objective, as the recipe's file says them."""
    text = (config_folder() / "experiment" / f"{name}.yaml").read_text()
    comment = " ".join(row.lstrip("# ") for row in text.splitlines()[1:] if row.startswith("#"))
    paper = re.search(r"arXiv (\d{4}\.\d{5})", comment)
    objective = re.search(r"override /objective: (\w+)", text)
    return {
        "system": re.split(r" \(|[:.] ", comment)[0],
        "paper": f"[{paper[1]}](https://arxiv.org/abs/{paper[1]})" if paper else "-",
        "objective": objective[1] if objective else "reconstruction",
    }


def losses(name: str, steps: int) -> dict[str, Any]:
    """Train at size=tiny; the mean loss of the first and of the last tenth of the steps."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        quick = [f"trainer.max_steps={steps}", f"trainer.save_every={steps}", f"trainer.log_every={steps // SHARE}"]
        quick += ["trainer.pictures_every=0", "trainer.workers=0", "data.crops_per_photo=64", f"out={out}"]
        train(build_run(plain_config(name, "size=tiny", *quick), out))
        rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    return {"first": float(rows[0]["loss"]), "last": float(rows[-1]["loss"])}


def line(name: str, row: dict[str, Any]) -> str:
    """One row of the table."""
    bits = "continuous" if row["bits"] is None else f"{row['bits']:,.0f}"
    cells = [f"`{name}`", row["system"], row["paper"], str(row["tokens"]), bits, f"{row['parameters'] / 1e6:,.2f}M"]
    cells += [f"{row['space'] / 1e6:,.2f}M" if row["space"] else "-", row["objective"]]
    return "| " + " | ".join([*cells, f"{row['first']:.4f}", f"{row['last']:.4f}"]) + " |"


def write(path: Path, name: str, row: str, steps: int) -> None:
    """Put a row into the table; those of other recipes stay, and so does what people wrote around it."""
    text = path.read_text() if path.exists() else f"# Recipes\n\n{START}\n{END}\n"
    rows = {match[1]: match[0] for match in re.finditer(r"^\| `(\w+)` \|.*$", text, re.MULTILINE)} | {name: row}
    how = (
        f"`python benchmarks/recipes.py --steps {steps}`. Tokens, bits and parameters are those of the published size; "
        f"losses are those of `size=tiny` on the bundled photographs, means over the first and the last tenth of "
        f"{steps} steps. They are sums of what each objective minimises, and compare only within a row."
    )
    table = [
        f"| {' | '.join(COLUMNS)} |",
        "|---|---|---|---:|---:|---:|---:|---|---:|---:|",
        *(rows[key] for key in sorted(rows)),
    ]
    block = "\n".join([START, how, "", *table, END])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(re.sub(f"{START}.*{END}", lambda _: block, text, flags=re.DOTALL))


if __name__ == "__main__":
    main()
