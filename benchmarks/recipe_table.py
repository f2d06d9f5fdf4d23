"""The tables of docs/recipes.md: what the configs say of each recipe, and what benchmarks/recipes.py has measured."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from imtok.build import build_tokenizer
from imtok.config import check_command, register_schemas
from imtok.folders import config_folder
from imtok.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "recipes.md"
START, END = "<!-- recipes -->", "<!-- end of recipes -->"
LEARNS = {  # what an objective minimises, where its losses do not say it
    "ProxyObjective": "codes of MaskGIT-VQGAN",
    "FlowObjective": "velocity or noise",
    "ConsistencyObjective": "consistency of jumps",
    "ALITDistillation": "codes of MAGE's VQGAN, after each rollout",
    "ALITFinetuning": "after one rollout in turn",
    "KARLDistillation": "codes of MAGE's VQGAN, in two passes",
    "KARLFinetuning": "in two passes",
    "LaVITObjective": "cosine of features + 2 rate of the selector",
}
FORMS = {"hinge": "hinge", "logistic": "logistic", "logistic_mean": "logistic of the mean"}


def names() -> list[str]:
    """Every recipe."""
    return sorted(path.stem for path in (config_folder() / "experiment").glob("*.yaml"))


def composed(name: str, *overrides: str) -> Any:
    """The composed config of a recipe, checked."""
    given = [f"experiment={name}", *overrides]
    check_command("train", given)
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose("train", overrides=given)


@cache
def published(name: str) -> dict[str, Any]:
    """The config at the published size, with placeholders for what the user must give, as plain values."""
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=[f"experiment={name}"])
    for key in OmegaConf.missing_keys(config):
        OmegaConf.update(config, key, "nowhere")
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return plain


def on_meta(plain: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a config without memory for its weights."""
    with torch.device("meta"):
        return build_tokenizer(plain)


def facts(name: str) -> dict[str, str]:
    """What is known without training, as the cells of a row."""
    plain = published(name)
    tokenizer = on_meta(plain)
    side, quantizer = plain["image_size"], tokenizer.quantizer
    tokens = tokenizer.num_tokens((side, side))
    space = count(tokenizer.space) if tokenizer.space is not None else 0
    said = header(name)
    optimizer, trainer = plain["optimizer"], plain["trainer"]
    return {
        "recipe": f"`{name}`",
        "system": said["system"],
        "paper": said["paper"],
        "pixels": str(side),
        "tokens": str(tokens),
        "bits": f"{tokens * quantizer.bits_per_token:,.0f}" if quantizer.vocab_sizes else "continuous",
        "parameters": f"{(count(tokenizer) - space) / 1e6:,.2f}M",
        "frozen space": f"{space / 1e6:,.2f}M" if space else "-",
        "objective": "latents" if kind(plain["decoder"]) == "Rectifier" else objective(plain["objective"]),
        "training": f"{trainer['max_steps']:,} x {trainer['batch_size']}, {optimizer['lr']:.3g}",
        "published": said["published"],
    }


def count(module: nn.Module) -> int:
    """Its parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def header(name: str) -> dict[str, str]:
    """System, paper and published figures, as the comment at the top of the recipe says them."""
    rows = (config_folder() / "experiment" / f"{name}.yaml").read_text().splitlines()[1:]
    comment = [row.removeprefix("#").strip() for row in rows[: rows.index("defaults:")]]
    text = " ".join(row for row in comment if not row.startswith("Published:"))
    figures = next(row for row in comment if row.startswith("Published:"))
    paper = re.search(r"arXiv (\d{4}\.\d{5})", text)
    return {
        "system": re.split(r" \(|[:.] ", text)[0],
        "paper": f"[{paper[1]}](https://arxiv.org/abs/{paper[1]})" if paper else "-",
        "published": figures.removeprefix("Published:").strip().rstrip("."),
    }


def objective(section: dict[str, Any]) -> str:
    """The terms of an objective and their weights, the quantizer's own apart."""
    learns = LEARNS.get(kind(section))
    parts = [learns] if learns else []
    parts += [f"{weighted(part)}{name}" for name, part in (section.get("losses") or {}).items()]
    adversary = section.get("adversary")
    if adversary:
        start = adversary.get("generator_start") or adversary.get("critic_start", 0)
        balance = "adaptive " if adversary.get("balance") == "adaptive" else ""
        lecam = f" with {adversary['lecam_weight']:g} LeCam" if adversary.get("lecam_weight") else ""
        alike = adversary.get("consistency_weight")
        lecam += f" with {alike:g} consistency" if alike else ""
        form = f"{balance}{FORMS[adversary.get('form', 'hinge')]}"
        parts.append(f"{weighted(adversary)}{form} of {kind(adversary['critic'])}{lecam} from step {start:,}")
    for part in (section.get("alignments") or {}).values():
        if "text" in part:
            parts.append(f"{weighted(part)}contrast of {part['source']} with captions")
            continue
        if "target" in part:
            parts.append(f"{weighted(part)}{part['loss']} of {part['source']} to {part['target']}")
            continue
        teacher = part["teacher"]["name"].partition(".")[0]
        if "loss" not in part:  # codes in the place of a net's tokens
            parts.append(
                f"{weighted(part)}cosine and mse of {part['source']} to {teacher}, and through its last layers"
            )
            continue
        how = part["loss"] if isinstance(part["loss"], str) else kind(part["loss"]).lower()
        parts.append(f"{weighted(part)}{how} of {part['source']} to {teacher}")
    return " + ".join(parts)


def kind(section: dict[str, Any]) -> str:
    """The class that a section names."""
    return section["_target_"].rpartition(".")[2]


def weighted(section: dict[str, Any]) -> str:
    """Its weight, unless that is 1."""
    weight = section.get("weight", 1.0)
    return "" if weight == 1 else f"{weight:g} "


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """What was measured, the latest of each recipe."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["recipe"]: row for row in map(json.loads, lines)}


def measured(row: dict[str, Any], counted: bool) -> dict[str, str]:
    """What was measured, as the cells of a row."""
    overfit = f"{row['psnr']:.1f} dB" if row["psnr"] is not None else f"loss x {row['ratio']:.2f}"
    return {
        "recipe": f"`{row['recipe']}`",
        "parameters": "as published" if counted else "-",
        "first loss": f"{row['first']:.4f}",
        "last loss": f"{row['last']:.4f}",
        "goes on bitwise": "yes" if row["bitwise"] else "NO",
        "8 images": overfit if row["learnt"] else f"{overfit}: TOO LITTLE",
        "seconds per step": f"{row['seconds']:.2f}",
    }


def write_page(path: Path, rows: dict[str, dict[str, Any]]) -> None:
    """Put both tables between the marks of the page; what people wrote around them stays."""
    known = names()
    tests = (ROOT / "tests" / "test_parameters.py").read_text()
    about = [facts(name) for name in known]
    verified = [measured(rows[name], f'"{name}"' in tests) for name in known if name in rows]
    lines = [*table(about), ""]
    if verified:
        steps = sorted({(row["steps"], row["resumed_at"]) for row in rows.values()})
        lines += [f"Measured over {' or '.join(f'{total} steps, resumed at {at}' for total, at in steps)}.", ""]
        lines += [*table(verified), ""]
    between(path, (START, END), lines)


def between(path: Path, marks: tuple[str, str], lines: list[str]) -> None:
    """Put lines between two marks of a page; what people wrote around them stays."""
    start, end = marks
    text = path.read_text() if path.exists() else f"# Recipes\n\n{start}\n{end}\n"
    block = "\n".join([start, *lines, end])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(re.sub(f"{start}.*{end}", lambda _: block, text, flags=re.DOTALL))


def table(rows: list[dict[str, str]]) -> list[str]:
    """Lines of a Markdown table; columns of numbers are aligned to the right."""
    columns = list(rows[0])
    numbers = {"pixels", "tokens", "bits", "parameters", "frozen space", "first loss", "last loss", "seconds per step"}
    numbers |= {"steps", "PSNR (dB)", "mean colour (dB)", "above", "colour of the tile (dB)", "processor (s)"}
    return [
        f"| {' | '.join(columns)} |",
        f"|{'|'.join('---:' if column in numbers else '---' for column in columns)}|",
        *(f"| {' | '.join(row.values())} |" for row in rows),
    ]
