"""Time of the search for the nearest codes beside the dense search of LlamaGen's VectorQuantizer.

    python benchmarks/search.py                    # 16384 unit-length codes of 8 channels, 8 images of 256 tokens
    python benchmarks/search.py --busy 2 --rounds 40

Each setting is a process of its own: OMP_WAIT_POLICY active and passive, alone and beside busy processes. In it the two
take turns; the ratio is the median over pairs, ours over theirs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from imtok.quantizers.search import nearest


def dense(latents: Tensor, table: Tensor) -> Tensor:
    """All distances at once, then the least: |z|^2 + |e|^2 - 2 z . e."""
    distances = latents.square().sum(1, keepdim=True) + table.square().sum(1)
    return (distances - 2 * torch.einsum("nd,dk->nk", latents, table.T)).argmin(1)


def measure(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each turn of both, in this process."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    latents = F.normalize(torch.randn(arguments.tokens, arguments.dim), dim=-1)
    table = F.normalize(torch.randn(arguments.codes, arguments.dim), dim=-1)
    searches: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ours": nearest, "theirs": dense}
    seconds: dict[str, list[float]] = {name: [] for name in searches}
    for turn in range(arguments.rounds + 1):
        for name, search in searches.items():
            start = time.perf_counter()
            search(latents, table)
            if turn:  # the first one allocates and starts threads
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Print a row for each of the four settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--codes", type=int, default=16384)
    parser.add_argument("--dim", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--busy", type=int, default=1, help="processes beside it in the second half of the settings")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments)))
        return
    print("| OMP_WAIT_POLICY | busy processes | ours, ms | theirs, ms | ratio |\n|---|---|---|---|---|")
    for policy in ("active", "passive"):
        for busy in (0, arguments.busy):
            beside = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
            try:
                command = [sys.executable, __file__, "--child", *sys.argv[1:]]
                environment = os.environ | {"OMP_WAIT_POLICY": policy, "OMP_NUM_THREADS": str(arguments.threads)}
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            finally:
                for process in beside:
                    process.kill()
                    process.wait()
            seconds = json.loads(done.stdout)
            ratio = statistics.median(ours / theirs for ours, theirs in zip(*seconds.values(), strict=True))
            ours, theirs = (1000 * statistics.median(values) for values in seconds.values())
            print(f"| {policy} | {busy} | {ours:.1f} | {theirs:.1f} | {ratio:.3f} |", flush=True)


if __name__ == "__main__":
    main()
