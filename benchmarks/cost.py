"""What a step of each recipe costs: counted on shapes, no GPU needed; and what follows from that on many GPUs.

    python benchmarks/cost.py [RECIPE ...] [--tflops 316] [--inside 350] [--between 40] [--out docs/scaling.md]

Operations are those of one training step at the published size, forward and backward, with perceptual nets, teachers
and critics. A step takes the longer of its products and 15 ms of launches, and then the exchange of gradients, as if
nothing of it overlapped. The rows replace those between the marks of the page.
"""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gpu_blocks.gpu_nets import recipe
from recipes import composed
from torch import nn

from imtok.training.rehearsal import Rehearsal

RECIPES = (
    "llamagen_vq16",
    "titok_bl64",
    "bsq_vit",
    "open_magvit2",
    "gigatok_ss",
    "flextok_d12",
    "flextok_d18_d28",
    "gigatok_xlxxl",
)
LAUNCHES = 0.015  # seconds of a step that launches alone take
TRAINED, FROZEN = 20, 8  # bytes of state per parameter, in fp32 with AdamW and averages
IN_A_MACHINE, COUNTS = 8, (1, 8, 64, 512)
BEGIN, END = "<!-- costs -->\n", "<!-- end of costs -->\n"


@dataclass(frozen=True)
class Cost:
    """What is known of a recipe.

    Attributes:
        name: The recipe.
        trained: Parameters that learn, those of critics too.
        frozen: Parameters of the tokenizer that do not.
        flops: Of an image in a training step.
        batch: Images per step.
        steps: Of the published schedule.
    """

    name: str
    trained: int
    frozen: int
    flops: float
    batch: int
    steps: int

    def seconds(self, gpus: int, speed: float, inside: float, between: float) -> float:
        """Of a step: products at ``speed`` FLOP/s, and gradients at so many bytes per second and GPU."""
        exchanged = 2 * 4 * self.trained * (gpus - 1) / gpus
        computed = max(self.flops * self.batch / gpus / speed, LAUNCHES)
        return computed + exchanged / (inside if gpus <= IN_A_MACHINE else between)


def cost(name: str) -> Cost:
    """Build a recipe at its published size and count a late step of it on shapes."""
    bench = cast(Any, SimpleNamespace(tiny=False, out=Path("cost")))  # nothing is written
    config = composed(name, "data=photos", "init_from=null")
    tokenizer, objective, side = recipe(bench, name)
    flops = Rehearsal(8, side, config.trainer.max_steps - 1, True, {}).flops(tokenizer, objective)
    if flops is None:
        raise SystemExit(f"{name}: its step cannot be followed by shapes")
    nets = [tokenizer, *objective.nets().values()]
    trained = sum(_count(net, learns=True) for net in nets)
    trainer = config.trainer
    return Cost(name, trained, _count(tokenizer, learns=False), flops, trainer.batch_size, trainer.max_steps)


def _count(net: nn.Module, learns: bool) -> int:
    return sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad == learns)


def rows(found: list[Cost], speed: float, inside: float, between: float) -> list[str]:
    """Both tables of the page."""
    lines = [
        "| recipe | trained M | frozen M | GFLOP per image | state per GPU | gradients per step |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for one in found:
        state = (TRAINED * one.trained + FROZEN * one.frozen) / 1e9
        cells = [f"`{one.name}`", f"{one.trained / 1e6:,.0f}", f"{one.frozen / 1e6:,.0f}", f"{one.flops / 1e9:,.0f}"]
        lines.append(f"| {' | '.join([*cells, f'{state:.1f} GB', f'{4 * one.trained / 1e9:.2f} GB'])} |")
    lines += [
        "",
        "| recipe | batch | steps | " + " | ".join(f"images/s, {n} GPU" for n in COUNTS) + " | days, 8 GPU | 64 GPU |",
        "|---|---:|---:|" + "---:|" * (len(COUNTS) + 2),
    ]
    for one in found:
        cells = [f"`{one.name}`", f"{one.batch:,}", f"{one.steps:,}"]
        for gpus in COUNTS:
            seconds = one.seconds(gpus, speed, inside, between)
            cells.append(f"{one.batch / seconds:,.0f}" if one.batch >= gpus else "")
        days = [one.steps * one.seconds(gpus, speed, inside, between) / 86400 for gpus in (8, 64)]
        lines.append(f"| {' | '.join([*cells, *(f'{value:.1f}' for value in days)])} |")
    return lines


def main() -> None:
    """Count, and replace the rows of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--tflops", type=float, default=316, help="that a GPU reaches in bf16")
    parser.add_argument("--inside", type=float, default=350, help="GB/s of a GPU within a machine")
    parser.add_argument("--between", type=float, default=40, help="GB/s of a GPU between machines")
    parser.add_argument("--out", type=Path, help="page whose rows are replaced; without it they are printed")
    arguments = parser.parse_args()
    found = []
    for name in arguments.recipes:
        found.append(cost(name))
        print(found[-1], flush=True)
    lines = rows(found, arguments.tflops * 1e12, arguments.inside * 1e9, arguments.between * 1e9)
    text = "\n".join(lines) + "\n"
    if arguments.out is None:
        print(text)
        return
    page = arguments.out.read_text()
    given = f"{BEGIN}\n{text}\n{END}"
    arguments.out.write_text(re.sub(f"{BEGIN}.*?{END}", lambda _: given, page, flags=re.DOTALL))


if __name__ == "__main__":
    main()
