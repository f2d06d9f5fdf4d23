"""How far the gradients of a run in bf16 are from those of one in fp32, for every quantizer and every judge.

python benchmarks/bf16.py                 the table of docs/training.md
python benchmarks/bf16.py lfq_18 lpips    some of its rows

What is given to a quantizer or a judge (latents, images, features) is the same float32 tensor in both runs, so that
nothing but the precision of the gradient differs. A row is the worst of the gradients of its terms, each taken alone.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]  # not this folder: it has files of the same names

from quantizers.contract import PRESETS, build
from training import bf16

TOKENS = 128


def main() -> None:
    """Print a row for each name on the command line, or for all."""
    torch.set_num_threads(1)
    rows: dict[str, Callable[[], float]] = {name: lambda name=name: of_quantizer(name) for name in PRESETS}
    rows |= {name: lambda name=name: error(*bf16.image_loss_case(name)) for name in bf16.IMAGE_LOSSES}
    rows |= {f"{name}_distance": lambda name=name: error(*bf16.distance_case(name)) for name in bf16.DISTANCES}
    rows |= {f"r1_{name}": lambda name=name: error(*bf16.penalty_case(name)) for name in bf16.CRITICS}
    print("| quantizer or judge | relative error of its gradients |\n|---|---:|")
    for name in sys.argv[1:] or rows:
        torch.manual_seed(0)
        print(f"| {name} | {rows[name]():.1e} |", flush=True)


def of_quantizer(name: str) -> float:
    """Of all losses of a preset and of what passes its codes, to latents and parameters."""
    return error(*bf16.quantizer_case(build(name), TOKENS))


def error(loss: Callable[[], torch.Tensor], leaves: list[torch.Tensor], critic: torch.nn.Module | None = None) -> float:
    """Of a step in bf16 against the same step in fp32."""
    exact = bf16.gradients_of_a_run(loss, leaves, "32-true", critic)
    return bf16.relative_error(bf16.gradients_of_a_run(loss, leaves, "bf16-mixed", critic), exact)


if __name__ == "__main__":
    main()
