"""Training steps of quantizers and of their peers that take turns in one process, however OpenMP waits.

    python benchmarks/side_by_side.py         # all cases, some 20 minutes; writes docs/benchmarks-quantizers.md
    python benchmarks/side_by_side.py --cases search vq_llamagen --busy 2

Each row is four processes: ``OMP_WAIT_POLICY`` active and passive, alone and beside busy processes. In a process both
sides take turns on the same latents. A ratio is the median over pairs, ours over theirs, so that 0.5 means half of
their time. Needs ``pip install -e '.[bench]'``.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from imtok.construct import construct
from imtok.options import option
from imtok.quantizers.search import nearest

Step = Callable[[Tensor], Any]


class Case(NamedTuple):
    """Two steps on latents ``tokens dim``, and who the peer is."""

    peer: str
    preset: str
    changes: dict[str, Any]
    make: Callable[[int], Step]
    tokens: int = 4096


def stepped(quantizer: nn.Module) -> Step:
    """Forward, backward and update of a quantizer of imtok."""

    def step(latents: Tensor) -> None:
        quantized = quantizer(latents.unflatten(0, (-1, 256)))
        losses = sum(loss.value * loss.weight for loss in quantized.losses.values())
        (quantized.latents.square().mean() + losses).backward()
        quantizer.update(quantized.stats)

    return step


def library(name: str, *arguments: Any, **settings: Any) -> Callable[[int], Step]:
    """Forward and backward of a class of vector-quantize-pytorch, which updates its averages within forward."""

    def make(_dim: int) -> Step:
        import vector_quantize_pytorch as peers  # only where it is measured

        quantizer = getattr(peers, name)(*arguments, **settings)

        def step(latents: Tensor) -> None:
            result = quantizer(latents.unflatten(0, (-1, 256)))
            losses = result[2].sum() if len(result) > 2 and isinstance(result[2], Tensor) else 0
            (result[0].square().mean() + losses).backward()

        return step

    return make


def table(codes: int, dim: int) -> nn.Parameter:
    """Codes as public code begins with them."""
    return nn.Parameter(torch.empty(codes, dim).uniform_(-1 / codes, 1 / codes))


def entropies(affinity: Tensor) -> Tensor:
    """Entropy of each row less that of their mean, of ``n k`` affinities at temperature 0.01 (arXiv 2310.05737)."""
    probabilities, logs = (affinity / 0.01).softmax(-1), (affinity / 0.01 + 1e-5).log_softmax(-1)
    mean = probabilities.mean(0)
    return -(probabilities * logs).sum(-1).mean() + (mean * (mean + 1e-5).log()).sum()


def distances(latents: Tensor, codes: Tensor) -> Tensor:
    """All squared distances ``n k`` at once."""
    return latents.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * torch.einsum("nd,kd->nk", latents, codes)


def dense_vq(entropy: float | None) -> Callable[[int], Step]:
    """The form of LlamaGen and taming: unit length, all distances, their least; None computes no entropies."""

    def make(dim: int) -> Step:
        weight = table(16384, dim)

        def step(latents: Tensor) -> None:
            points, codes = F.normalize(latents, dim=-1), F.normalize(weight, dim=-1)
            found = distances(points, codes)
            chosen = codes[found.argmin(1)]
            loss = (chosen - points.detach()).square().mean() + 0.25 * (chosen.detach() - points).square().mean()
            if entropy is not None:
                loss = loss + entropy * entropies(-found)
            ((points + (chosen - points).detach()).square().mean() + loss).backward()

        return step

    return make


def dense_ibq(dim: int) -> Step:
    """The form of SEED-Voken: softmax over all codes, a one-hot matrix with its gradient, and entropies."""
    weight = table(16384, dim)

    def step(latents: Tensor) -> None:
        logits = latents @ weight.T
        soft = logits.softmax(-1)
        hard = F.one_hot(soft.argmax(-1), len(weight)).to(soft)
        quantized, plain = (hard - soft.detach() + soft) @ weight, hard @ weight
        loss = (quantized - latents).square().mean() + (plain.detach() - latents).square().mean()
        loss = loss + 0.25 * (plain - latents.detach()).square().mean() + 0.05 * entropies(logits)
        (quantized.square().mean() + loss).backward()

    return step


def dense_leech(_dim: int) -> Step:
    """The 196,560 codes as a table, of which the greatest product is sought."""
    with torch.no_grad():
        codes = construct(option("quantizer", "leech")).table()

    def step(latents: Tensor) -> None:
        chosen = codes[(latents.detach() @ codes.T).argmax(1)]
        (latents + (chosen - latents).detach()).square().mean().backward()

    return step


def dense_search(dim: int) -> Step:
    """The search alone, without gradients, of unit-length codes."""
    codes = F.normalize(torch.randn(16384, dim), dim=-1)
    return lambda latents: distances(F.normalize(latents.detach(), dim=-1), codes).argmin(1)


def our_search(dim: int) -> Step:
    """The same by the search of imtok."""
    codes = F.normalize(torch.randn(16384, dim), dim=-1)
    return lambda latents: nearest(F.normalize(latents.detach(), dim=-1), codes)


K = {"codebook_size": 16384}
PLAIN = {**K, "normalize": False}
LEARNED = {"learnable_codebook": True, "ema_update": False, "commitment_weight": 0.25, "rotation_trick": False}
VQP = "vector-quantize-pytorch"
CASES: dict[str, Case] = {
    "search": Case("dense search of LlamaGen", "vq_llamagen", K, dense_search, 2048),
    "vq_llamagen": Case("dense step of LlamaGen without its entropies", "vq_llamagen", K, dense_vq(None)),
    "vq_llamagen (as it is)": Case("LlamaGen, which computes entropies at weight 0", "vq_llamagen", K, dense_vq(0.0)),
    "vq_entropy": Case("LlamaGen with entropies", "vq_entropy", {**K, "entropy_weight": 0.1}, dense_vq(0.1)),
    "vq": Case(VQP, "vq_llamagen", PLAIN, library("VectorQuantize", dim=8, codebook_size=16384, **LEARNED)),
    "vq, rotation": Case(
        VQP,
        "vq_llamagen",
        {**PLAIN, "estimator": "rotation"},
        library("VectorQuantize", dim=8, codebook_size=16384, **{**LEARNED, "rotation_trick": True}),
    ),
    "vq_diveq": Case(
        VQP,
        "vq_diveq",
        {**PLAIN, "dim": 8, "kmeans_start": False},
        library("VectorQuantize", dim=8, codebook_size=16384, directional_reparam=True, threshold_ema_dead_code=1),
    ),
    "ema_vq": Case(
        VQP,
        "ema_vq",
        {**K, "restart_below": 0.0},
        library("VectorQuantize", dim=64, codebook_size=16384, decay=0.99, commitment_weight=0.25),
    ),
    "simvq": Case(VQP, "simvq", K, library("SimVQ", dim=128, codebook_size=16384, rotation_trick=False)),
    "ibq": Case("dense step of SEED-Voken", "ibq", K, dense_ibq, 1024),
    "lfq_18 (14 bits)": Case(
        VQP, "lfq_18", {"slot_bits": [14]}, library("LFQ", dim=14, codebook_size=16384, commitment_loss_weight=0.25)
    ),
    "bsq_18 (14 bits)": Case(
        VQP,
        "bsq_18",
        {"slot_bits": [14], "entropy_bits": None},
        library("LFQ", dim=14, codebook_size=16384, spherical=True),
    ),
    "fsq": Case(VQP, "fsq", {"levels": [8, 8, 8, 6, 5]}, library("FSQ", [8, 8, 8, 6, 5])),
    "fsp": Case(VQP, "fsp", {}, library("FSP", [8, 5, 5, 5], quantize_rate=0.5)),
    "rq_8": Case(
        VQP,
        "rq_8",
        {"stages": K},
        library("ResidualVQ", dim=32, num_quantizers=8, shared_codebook=True, codebook_size=16384, **LEARNED),
        1024,
    ),
    "residual_fsq": Case(VQP, "residual_fsq", {}, library("ResidualFSQ", levels=[8, 5, 5, 3], num_quantizers=4)),
    "leech": Case("greatest of all products", "leech", {}, dense_leech, 256),
}


def sides(name: str) -> tuple[Step, Step, Tensor]:
    """Our step, the peer's, and latents for both."""
    case = CASES[name]
    config = option("quantizer", case.preset)
    changes = dict(case.changes)
    if "stages" in changes:
        inner = changes.pop("stages")
        config["stages"] = [{**stage, **inner} for stage in config["stages"]]
    quantizer = construct(config | changes)
    mine = our_search(quantizer.dim) if name == "search" else stepped(quantizer)
    return mine, case.make(quantizer.dim), torch.randn(case.tokens, quantizer.in_dim, requires_grad=True)


def measure(name: str, threads: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of each turn of both, in this process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    mine, theirs, latents = sides(name)
    spent: dict[str, list[float]] = {"ours": [], "theirs": []}
    for turn in range(100):
        for side, step in (("ours", mine), ("theirs", theirs)):
            latents.grad = None
            start = time.perf_counter()
            step(latents)
            if turn:  # the first one allocates and starts threads
                spent[side].append(time.perf_counter() - start)
        if turn >= 5 and sum(map(sum, spent.values())) > seconds:
            break
    return spent


def row(name: str, arguments: argparse.Namespace) -> str:
    """One line of the table."""
    cells, first = [name, CASES[name].peer, str(CASES[name].tokens)], ["-", "-"]
    for policy in ("active", "passive"):
        for busy in (0, arguments.busy):
            beside = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
            command = [sys.executable, __file__, "--child", name, "--threads", str(arguments.threads)]
            environment = os.environ | {"OMP_WAIT_POLICY": policy, "OMP_NUM_THREADS": str(arguments.threads)}
            try:
                done = subprocess.run(
                    [*command, "--seconds", str(arguments.seconds)], env=environment, capture_output=True, text=True
                )
            finally:
                for process in beside:
                    process.kill()
                    process.wait()
            if done.returncode:
                raise RuntimeError(f"{name} failed:\n{done.stderr}")
            seconds = json.loads(done.stdout)
            if first == ["-", "-"]:
                first = [f"{1000 * statistics.median(values):.1f}" for values in seconds.values()]
            ratio = statistics.median(mine / theirs for mine, theirs in zip(*seconds.values(), strict=True))
            cells.append(f"{ratio:.3f}")
    return "| " + " | ".join([*cells[:3], *first, *cells[3:]]) + " |"


def page(rows: list[str], arguments: argparse.Namespace) -> str:
    """The Markdown page."""
    lines = [
        "# Quantizers and their peers, side by side",
        "",
        "`python benchmarks/side_by_side.py` makes this page. A row is one training step (forward, backward and the",
        "update of the codebook) in float32 with 16,384 codes where the kind has a size, beside the same method of",
        f"vector-quantize-pytorch {version(VQP)} or the dense form that public repositories have. Both sides take",
        "turns in one process on the same latents. **A ratio is the median over pairs, our time over theirs: below 1",
        f"is in our favour.** *Busy* means that {arguments.busy} other process keeps a core busy. The milliseconds are",
        "those of the first setting (active, alone).",
        "",
        "LlamaGen's step computes the entropies of all assignments even where their weight is 0, as it is in its",
        "recipes; the row above it leaves them out. `search` is the search alone, without gradients. Each thread of",
        "ours searches whole blocks of tokens, so that none waits for another at each operation when a core is busy.",
        "",
        f"{arguments.threads} threads, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}.",
        "",
        "| quantizer | beside | tokens | ours, ms | theirs, ms | active | active, busy | passive | passive, busy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *rows]) + "\n"


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=6.0, help="time to spend in each process, at least five pairs")
    parser.add_argument("--busy", type=int, default=1, help="processes beside it in the second half of the settings")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks-quantizers.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.child, arguments.threads, arguments.seconds)))
        return
    rows: list[str] = []
    for name in arguments.cases:
        rows.append(row(name, arguments))
        print(rows[-1], flush=True)
    arguments.out.write_text(page(rows, arguments))


if __name__ == "__main__":
    main()
