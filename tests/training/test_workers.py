"""Whatever goes wrong while images are loaded, the process ends, and its workers with it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from training.launch import ROOT
from training.runs import write_images

CODES = {
    "key": 1,
    "memory": 1,
    "class of its own": 1,
    "stop": 1,
    "sys.exit": 1,
    "os._exit": 1,
    "killed": 1,
    "refusal": 2,
    "sampler": 1,
    "consumer": 1,
    "unfinished": 0,
    "stuck": 1,
    "main killed": -9,
}
QUICK = ["class of its own", "os._exit", "refusal", "sampler", "main killed"]


def test_an_error_of_a_worker_or_of_what_it_works_for_ends_all_processes(tmp_path):
    """Workers of a training run ignore SIGTERM, so that the step under way can end when all are asked to stop."""
    said = ends_of(QUICK, tmp_path)
    assert "imtok: shard 3 is gone; mount it again\n" in said
    assert "Local: x" in said


@pytest.mark.slow
def test_so_does_every_other_one(tmp_path):
    assert "StopIteration" in ends_of(sorted(CODES.keys() - set(QUICK)), tmp_path)


def ends_of(kinds, folder):
    """Check with which code processes of these kinds end, and that they leave none behind; returns what they said."""
    script = Path(__file__).with_name("failing_workers.py")
    command = [sys.executable, str(script), str(write_images(folder / "images", 24)), *kinds]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    expected = {kind: CODES[kind] for kind in kinds} | {f"{kind}: left": 0 for kind in kinds}
    assert json.loads(done.stdout.splitlines()[-1]) == expected, done.stderr
    return done.stderr
