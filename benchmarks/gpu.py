"""What imtok does on one GPU: is it right, how fast is it, and what does it wait for?

python benchmarks/gpu.py --out DIR                      all blocks; DIR/gpu.json has a line for each finding
python benchmarks/gpu.py --out DIR --only search speed  some of them
python benchmarks/gpu.py --device cpu                   tiny versions of all blocks, as CI runs them

Needs torch 2.9 or newer and Python 3.11 to 3.13, no data set and no downloaded weights. Each block has a time limit of
its own (eight minutes in all), and one that fails does not stop the others. Findings are printed as they come, one JSON
object a line. At the end come the assertions that did not hold; the exit status is then 1. Limits of speed are asserted
on a GPU alone.
"""

import argparse
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path[:1] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks/gpu_blocks")]  # not this folder: names clash


@dataclass
class Bench:
    """What the blocks share.

    Attributes:
        device: What is measured.
        out: Where files go.
        block: The block that runs now.
        failed: Assertions that did not hold, and blocks that ended with an error.
    """

    device: torch.device
    out: Path
    block: str = ""
    failed: list[str] = field(default_factory=list)

    @property
    def tiny(self) -> bool:
        """Whether everything is at its smallest: there is no GPU."""
        return self.device.type == "cpu"

    def say(self, **values: Any) -> None:
        """Print a finding, and add it to ``gpu.json``."""
        line = json.dumps({"block": self.block, **values})
        print(line, flush=True)
        with (self.out / "gpu.json").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def require(self, holds: bool, what: str, on_gpu: bool = False) -> None:
        """Note an assertion that does not hold; one of speed (``on_gpu``) counts on a GPU alone."""
        if not holds and not (on_gpu and self.tiny):
            self.failed.append(f"{self.block}: {what}")

    def wait(self) -> None:
        """Until the device has done all that it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], Any], times: int = 5) -> float:
        """Of one call: the least of several, after one that does not count."""
        found = []
        for _ in range(1 + (1 if self.tiny else times)):
            self.wait()
            start = time.perf_counter()
            run()
            self.wait()
            found.append(time.perf_counter() - start)
        return min(found[1:])

    def peak(self) -> float:
        """The most memory that tensors had on the GPU since the last call, in GB; 0 on a processor."""
        if self.tiny:
            return 0.0
        most = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.reset_peak_memory_stats()
        return most


class OutOfTimeError(Exception):
    """A block took longer than its limit."""


def main() -> None:
    """Run the blocks that are asked for."""
    from gpu_nets import BLOCKS as NETS
    from gpu_numbers import BLOCKS as NUMBERS
    from gpu_runs import BLOCKS as RUNS

    blocks = {**NUMBERS, **NETS, **RUNS}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--only", nargs="*", choices=list(blocks), default=list(blocks))
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU; give --device cpu for the tiny versions")
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "gpu.json").unlink(missing_ok=True)
    bench = Bench(torch.device(given.device), given.out)
    torch.set_num_threads(1 if bench.tiny else 8)
    for name in given.only:
        run, limit = blocks[name]
        _run(bench, name, run, limit)
    for line in bench.failed:
        print(f"DOES NOT HOLD {line}", flush=True)
    raise SystemExit(1 if bench.failed else 0)


def _run(bench: Bench, name: str, run: Callable[[Bench], None], limit: int) -> None:
    """One block, until it ends, fails or has had its time."""

    def out_of_time(*_: Any) -> None:
        raise OutOfTimeError(f"longer than {limit} s")

    bench.block, start = name, time.monotonic()
    torch.manual_seed(0)
    before = signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(10 * limit if bench.tiny else limit)
    try:
        run(bench)
    except Exception as error:  # whatever it is, the other blocks go on
        bench.failed.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
        traceback.print_exc()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    bench.say(seconds=round(time.monotonic() - start, 1))


if __name__ == "__main__":
    main()
