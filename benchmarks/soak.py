"""Faults at random moments, over and over: python benchmarks/soak.py [--minutes 60] [--seed 0] [--out DIR].

Tiny runs on a folder of images, of which one in twelve cannot be decoded, are killed, interrupted, starved of disk and
given damaged checkpoints, and go on with ckpt=last. Each must end with the hash of the same run left in peace. Memory
and open files are those of the processes when they end. Prints a Markdown table; exit code 1 if a run differs.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import load_file

from imtok.training.records import SPEED

STEPS = 240
# Forks in which a run is carried out, so that a process costs no ten seconds of imports.
SERVER = """
import gc, json, os, resource, runpy, sys
import imtok.running, imtok.commands.train, torch
gc.freeze()
sys.stdout.write("ready\\n"); sys.stdout.flush()
for line in sys.stdin:
    job = json.loads(line)
    pid = os.fork()
    if pid == 0:
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1); os.dup2(log, 2)
        if job["limit"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
        code = 0
        try:
            sys.argv = ["train.py", *job["overrides"]]
            runpy.run_path(job["script"], run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\\n"); code = 1
        with open("/proc/self/status") as status:
            memory = [int(row.split()[1]) for row in status if row.startswith("VmRSS")][0]
        usage = {"memory": memory / 1024, "files": len(os.listdir("/proc/self/fd"))}
        with open(job["log"] + ".usage", "w") as file:
            json.dump(usage, file)
        sys.stdout.flush(); sys.stderr.flush(); os._exit(code)
    sys.stdout.write(f"{pid}\\n"); sys.stdout.flush()
    _, status = os.waitpid(pid, 0)
    sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\\n"); sys.stdout.flush()
"""
ROOT = Path(__file__).parents[1]


class Runs:
    """Carries out ``train.py``, one process at a time."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self.say()

    def say(self) -> str:
        """The server's next answer."""
        assert self.server.stdout is not None
        return self.server.stdout.readline().strip()

    def start(self, folder: Path, overrides: list[str], limit: int = 0) -> int:
        """Start a run; its process id."""
        given = [f"data.path={self.work / 'images'}", "data=folder", "image_size=16", "encoder.width=16"]
        given += ["encoder.depth=1", "decoder.width=16", "decoder.depth=1", "quantizer.codebook_size=32"]
        given += [f"trainer.max_steps={STEPS}", "trainer.batch_size=4", "trainer.accelerator=cpu", "trainer.threads=1"]
        given += ["trainer.save_every=20", "trainer.log_every=7", "trainer.pictures_every=0", "trainer.keep=3"]
        job = {
            "overrides": [*given, f"out={folder}", "ckpt=last", *overrides],
            "log": str(self.work / "log"),
            "limit": limit,
            "script": str(ROOT / "train.py"),
        }
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        return int(self.say())

    def wait(self) -> int:
        """The exit code of the run that was started."""
        return int(self.say())

    def usage(self) -> dict[str, float]:
        """Memory in MB and open files of the run that ended last, if it ended by itself."""
        path = self.work / "log.usage"
        found = json.loads(path.read_text()) if path.exists() else {}
        path.unlink(missing_ok=True)
        return found

    def log(self) -> str:
        """What the last run has said."""
        return (self.work / "log").read_text()


def write_images(folder: Path, number: int = 96) -> None:
    """Small PNGs, one in twelve of them cut."""
    folder.mkdir(parents=True)
    for index in range(number):
        path = folder / f"{index:03d}.png"
        pixels = np.random.default_rng(index).integers(0, 256, (20, 18, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        if index % 12 == 5:
            path.write_bytes(path.read_bytes()[:200])


def digest(folder: Path) -> str:
    """Of the weights, and of the log without its speeds."""
    found = hashlib.sha256()
    for name, value in sorted(load_file(folder / "tokenizer/model.safetensors").items()):
        found.update(name.encode() + value.numpy().tobytes())
    header, *rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    kept = [index for index, name in enumerate(header) if name not in SPEED]
    for row in [header, *rows]:
        found.update(",".join(row[index] for index in kept).encode())
    return found.hexdigest()[:16]


def damage_newest(folder: Path, draw: random.Random) -> bool:
    """Cut or change a file of the newest of several checkpoints."""
    found = sorted((folder / "checkpoints").glob("step_*"), key=lambda path: int(path.name[5:]))
    if len(found) < 2:
        return False
    path = draw.choice([path for path in sorted(found[-1].iterdir()) if path.stat().st_size])
    data = bytearray(path.read_bytes())
    if draw.random() < 0.5:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    else:
        del data[draw.randrange(len(data)) :]
    path.write_bytes(bytes(data))
    return True


def disturb(runs: Runs, folder: Path, draw: random.Random, counts: Counter[str], problems: list[str]) -> int:
    """One start of a run, with one fault; its exit code."""
    kind = draw.choice(["kill", "kill", "SIGTERM", "SIGINT", "SIGUSR1", "signal twice", "no room", "damage", "none"])
    if kind == "damage" and not damage_newest(folder, draw):
        kind = "kill"
    limit = draw.choice([100, 2000, 20_000]) if kind == "no room" else 0
    pid = runs.start(folder, [f"trainer.workers={draw.choice([0, 0, 2])}"], limit)
    # "no room": the log of this process counts too, so what it says cannot be asked for
    expected = {"none": {0}, "damage": {0}, "no room": {0, 1, 2, 120}}.get(kind, {0})
    if kind not in ("none", "damage", "no room"):
        time.sleep(draw.uniform(0.1, 2.5))
        number = {"kill": 9, "SIGINT": 2, "SIGUSR1": 10}.get(kind, 15)
        # before the first step a signal has nothing to save and acts as it does in any program
        expected |= {-number, 128 + number, 1} if kind != "kill" else {-9}
        for _ in range(2 if kind == "signal twice" else 1):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
    code = runs.wait()
    counts[kind] += 1
    if code not in expected:
        problems.append(f"{kind}: exit code {code}: {runs.log()[-300:]}")
    return code


def main() -> int:
    """Disturb runs for so many minutes; 1 if one of them differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the runs here")
    given = parser.parse_args()
    work = given.out or Path(tempfile.mkdtemp(prefix="soak."))
    work.mkdir(parents=True, exist_ok=True)
    write_images(work / "images")
    draw, counts, problems = random.Random(given.seed), Counter[str](), list[str]()
    memory, files = list[float](), list[float]()
    runs = Runs(work)
    runs.start(work / "clean", [])
    assert runs.wait() == 0, runs.log()
    runs.usage()
    clean, finished, starts, begun = digest(work / "clean"), 0, 0, time.monotonic()
    while time.monotonic() < begun + 60 * given.minutes:
        folder = work / f"run{finished}"
        for _ in range(99):
            code = disturb(runs, folder, draw, counts, problems)
            starts += 1
            usage = runs.usage()
            if usage and code == 0:
                memory.append(usage["memory"])
                files.append(usage["files"])
            if code == 0 and (folder / "summary.json").exists():
                break
        else:
            problems.append(f"{folder.name}: never finished: {runs.log()[-300:]}")
            break
        if digest(folder) != clean:
            problems.append(f"{folder.name}: {digest(folder)} is not {clean}")
            folder.rename(work / f"differs{finished}")
        left = [path.name for place in (folder, folder / "checkpoints") for path in place.glob(".*.tmp")]
        if left:
            problems.append(f"{folder.name}: left over {left}")
        finished += 1
        shutil.rmtree(folder, ignore_errors=True)
    half = len(memory) // 2
    print(f"| soak of {given.minutes:g} minutes, seed {given.seed} | |\n|---|---:|")
    print(f"| runs of {STEPS} steps finished | {finished} |\n| processes started | {starts} |")
    for kind, count in sorted(counts.items()):
        print(f"| fault: {kind} | {count} |")
    print(f"| hash of weights and log, clean run | `{clean}` |")
    print(f"| runs that end with another hash, code or leftover | {len(problems)} |")
    if half:
        for name, values in (("memory at the end (MB)", memory), ("open files at the end", files)):
            first, second = np.median(values[:half]), np.median(values[half:])
            print(f"| {name}: median of the first half, of the second | {first:.0f}, {second:.0f} |")
    for problem in problems:
        print(f"\n- {problem}")
    if not given.out:
        shutil.rmtree(work)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
