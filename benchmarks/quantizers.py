"""Time and peak memory of quantizers, forward and backward, side by side with vector-quantize-pytorch.

    python benchmarks/quantizers.py                                  # the whole grid, hours; writes docs/benchmarks.md
    python benchmarks/quantizers.py --cases vq lfq --codes 16384 --tokens 4096
    python benchmarks/quantizers.py --cases gq_32 --tokens 4096      # any preset of configs/quantizer, without a peer

Every measurement is a process of its own under a cap of memory and time ("-" where a side exceeds it), and the sides
take turns, so that both meet the same machine. Needs `pip install -e '.[bench]'`.
"""

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from imtok.construct import construct
from imtok.options import option

PRESETS = ROOT / "configs" / "quantizer"
LEVELS = {10: [8, 5, 5, 5], 14: [8, 8, 8, 6, 5], 16: [8, 8, 8, 5, 5, 5], 18: [8, 8, 8, 8, 8, 8]}
Step = Callable[[Tensor], None]

CASES: dict[str, tuple[str, Callable[[int], dict[str, Any]]]] = {
    "vq": ("vq_llamagen", lambda codes: {"codebook_size": codes, "normalize": False}),  # as the peer's learned codes
    "vq_against_matrix": ("vq_llamagen", lambda codes: {"codebook_size": codes}),
    "ema_vq": ("ema_vq", lambda codes: {"codebook_size": codes, "restart_below": 0.0}),
    "simvq": ("simvq", lambda codes: {"codebook_size": codes}),
    "lfq": ("lfq_18", lambda codes: {"slot_bits": [bits(codes)]}),
    "bsq": ("bsq_18", lambda codes: {"slot_bits": [bits(codes)], "entropy_bits": None}),
    "fsq": ("fsq", lambda codes: {"levels": LEVELS[bits(codes)]}),
    "residual": ("rq_8", lambda codes: {"codebook_size": codes}),
}


def bits(codes: int) -> int:
    """The whole number of bits of a vocabulary."""
    return round(math.log2(codes))


def ours(case: str, codes: int | None) -> tuple[Step, int]:
    """A step of our quantizer, its update included, and its width."""
    preset, overrides = CASES.get(case, (case, lambda _codes: {}))
    config = option("quantizer", preset)
    changes = overrides(codes) if codes else {}
    if "stages" in config:
        config["stages"] = [{**stage, **changes} for stage in config["stages"]]
    else:
        config |= changes
    quantizer = construct(config)

    def step(latents: Tensor) -> None:
        quantized = quantizer(latents)
        losses = sum(loss.value * loss.weight for loss in quantized.losses.values())
        (quantized.latents.square().mean() + losses).backward()
        quantizer.update(quantized.stats)

    return step, quantizer.dim


def peer(case: str, codes: int | None) -> tuple[Step, int]:
    """A step of the peer's quantizer with the same settings, and its width."""
    assert codes is not None
    if case == "vq_against_matrix":
        return full_matrix(codes)
    import vector_quantize_pytorch as peers  # only where it is measured

    learned = {"learnable_codebook": True, "ema_update": False, "commitment_weight": 0.25}
    width = {"vq": 8, "ema_vq": 64, "simvq": 128, "residual": 32}.get(case, bits(codes))
    make: dict[str, Callable[[], nn.Module]] = {
        "vq": lambda: peers.VectorQuantize(dim=8, codebook_size=codes, **learned),
        "ema_vq": lambda: peers.VectorQuantize(dim=64, codebook_size=codes, decay=0.99, commitment_weight=0.25),
        "simvq": lambda: peers.SimVQ(dim=128, codebook_size=codes, rotation_trick=False),
        "lfq": lambda: peers.LFQ(dim=width, codebook_size=codes, commitment_loss_weight=0.25),
        "bsq": lambda: peers.LFQ(dim=width, codebook_size=codes, spherical=True),
        "fsq": lambda: peers.FSQ(LEVELS[bits(codes)]),
        "residual": lambda: peers.ResidualVQ(
            dim=32, num_quantizers=8, codebook_size=codes, shared_codebook=True, **learned
        ),
    }
    quantizer = make[case]()
    width = len(LEVELS[bits(codes)]) if case == "fsq" else width

    def step(latents: Tensor) -> None:
        result = quantizer(latents)
        losses = result[2].sum() if len(result) > 2 else 0
        (result[0].square().mean() + losses).backward()

    return step, width


def full_matrix(codes: int) -> tuple[Step, int]:
    """The usual form of VQ with unit-length codes: all distances at once, then their argmin."""
    weight = nn.Parameter(torch.empty(codes, 8).uniform_(-1 / codes, 1 / codes))

    def step(latents: Tensor) -> None:
        points, table = F.normalize(latents.flatten(0, 1), dim=-1), F.normalize(weight, dim=-1)
        squares = points.square().sum(1, keepdim=True) + table.square().sum(1)
        chosen = table[(squares - 2 * points @ table.T).argmin(1)]
        losses = (chosen - points.detach()).square().mean() + 0.25 * (chosen.detach() - points).square().mean()
        quantized = points + (chosen - points).detach()
        (quantized.square().mean() + losses).backward()

    return step, 8


def measure(side: str, case: str, codes: int | None, tokens: int, threads: int, seconds: float) -> dict[str, float]:
    """Median time of a step in seconds, and MiB that the process grew by in its first one."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    step, width = (ours if side == "ours" else peer)(case, codes)
    side_of_square = math.isqrt(tokens)
    latents = torch.randn(tokens // side_of_square**2 or 1, side_of_square**2, width, requires_grad=True)
    torch.randn(64, 64, requires_grad=True).matmul(torch.randn(64, 64)).sum().backward()  # libraries load now
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _status("VmRSS")
    step(latents)
    grown = _status("VmHWM") - before
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 50):
        start = time.perf_counter()
        step(latents)
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times), "mebibytes": grown}


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def ask(arguments: argparse.Namespace, request: dict[str, Any]) -> dict[str, float] | None:
    """Measure in a process of its own; None if it exceeds a cap."""
    command = [sys.executable, __file__, "--child", json.dumps(request), "--gibibytes", str(arguments.gibibytes)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=arguments.cap, check=False)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        known = ("MemoryError", "not enough memory", "can't allocate memory", "bad_alloc")
        if not any(sign in done.stderr for sign in known) and done.returncode > 0:
            raise RuntimeError(f"{request} failed:\n{done.stderr}")
        return None
    return json.loads(done.stdout.splitlines()[-1])


def row(arguments: argparse.Namespace, case: str, codes: int | None, tokens: int) -> str:
    """One line of the table: the median of the rounds for both sides, and theirs over ours."""
    sides = ("ours", "peer") if case in CASES else ("ours",)
    seen: dict[str, list[dict[str, float] | None]] = {side: [] for side in sides}
    for _ in range(arguments.rounds):
        for side in sides:
            if None not in seen[side]:
                request = {"side": side, "case": case, "codes": codes, "tokens": tokens}
                settings = {"threads": arguments.threads, "seconds": arguments.seconds}
                seen[side].append(ask(arguments, request | settings))
    cells = [case, f"2^{bits(codes)}" if codes else "preset", str(tokens)]
    for key, scale, digits in (("seconds", 1000, 1), ("mebibytes", 1, 0)):
        values = [_median(seen.get(side, [None]), key) for side in ("ours", "peer")]
        cells += ["-" if value is None else f"{value * scale:.{digits}f}" for value in values]
        mine, theirs = values
        cells.append("-" if mine is None or theirs is None else f"{theirs / max(mine, 1e-9):.1f}")
    return "| " + " | ".join(cells) + " |"


def _median(results: list[dict[str, float] | None], key: str) -> float | None:
    values = [result[key] for result in results if result is not None]
    return statistics.median(values) if values and len(values) == len(results) else None


def page(arguments: argparse.Namespace, rows: list[str]) -> str:
    """The Markdown page."""
    lines = [
        "# Speed and memory of the quantizers",
        "",
        "One training step (forward, backward, update of the codebook) in float32, beside the same method in",
        "[vector-quantize-pytorch](https://pypi.org/project/vector-quantize-pytorch/); `vq_against_matrix` beside the",
        "usual form of VQ, which holds all distances. Ratios are theirs over ours: above 1 is in our favour. Memory is",
        "what the process grew by in its first step. `-`: no peer, or more than",
        f"{arguments.gibibytes:g} GiB or {arguments.cap:g} s for a process.",
        "",
        f"{arguments.threads} threads, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__};"
        f" median of {arguments.rounds} alternating processes per side.",
        "`python benchmarks/quantizers.py` makes this page.",
        "",
        "| quantizer | codes | tokens | ours, ms | peer, ms | ratio | ours, MiB | peer, MiB | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    growth = [
        "",
        "How ours grows: exponents between the smallest and the largest measured, at the most codes or tokens:",
        "",
    ]
    return "\n".join([*lines, *rows, *growth, *slopes(rows)]) + "\n"


def slopes(rows: list[str]) -> list[str]:
    """Exponents of our time and memory over the number of tokens (most codes that were measured at several) and codes.

    1 = proportional; less where fixed costs still show.
    """
    found: dict[str, dict[tuple[int, int], tuple[float, float]]] = {}
    for text in rows:
        case, codes, tokens, mine, _, _, grown, *_ = (cell.strip() for cell in text.strip("|").split("|"))
        if codes.startswith("2^") and mine != "-":
            found.setdefault(case, {})[int(codes[2:]), int(tokens)] = float(mine), max(float(grown), 1.0)
    lines = [
        "| quantizer | time over tokens | time over codes | memory over tokens | memory over codes |",
        "|---|" + "---|" * 4,
    ]
    for case, points in found.items():
        cells = []
        for quantity in (0, 1):
            for axis in (1, 0):
                lengths: dict[int, list[int]] = {}
                for point in points:
                    lengths.setdefault(point[1 - axis], []).append(point[axis])
                fixed = max((fixed for fixed, values in lengths.items() if len(values) > 1), default=None)
                if fixed is None:
                    cells.append("-")
                    continue
                first, last = (
                    (fixed, end) if axis else (end, fixed) for end in (min(lengths[fixed]), max(lengths[fixed]))
                )
                span = math.log(last[1] / first[1]) if axis else (last[0] - first[0]) * math.log(2)
                cells.append(f"{math.log(points[last][quantity] / points[first][quantity]) / span:.2f}")
        lines.append("| " + " | ".join([case, *cells]) + " |")
    return lines


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), help="cases or presets")
    parser.add_argument("--codes", nargs="+", type=int, default=[2**10, 2**14, 2**16, 2**18])
    parser.add_argument("--tokens", nargs="+", type=int, default=[1024, 4096, 16384])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="time to spend on steps in each process")
    parser.add_argument("--cap", type=float, default=120.0, help="seconds after which a process is stopped")
    parser.add_argument("--gibibytes", type=float, default=8.0, help="address space of a process")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        limit = int(arguments.gibibytes * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        print(json.dumps(measure(**json.loads(arguments.child))))
        return
    rows: list[str] = []
    for case in arguments.cases:
        for codes in arguments.codes if case in CASES else [None]:
            for tokens in arguments.tokens:
                rows.append(row(arguments, case, codes, tokens))
                print(rows[-1], flush=True)
                arguments.out.write_text(page(arguments, rows))


if __name__ == "__main__":
    main()
