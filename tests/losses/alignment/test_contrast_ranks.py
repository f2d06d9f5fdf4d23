"""Two processes are one big batch, also where images are compared with each other."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from losses.alignment import two_ranks

TESTS = Path(__file__).parents[2]


def test_averaged_values_and_gradients_are_those_of_one_process(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "losses.alignment.two_ranks"]
    processes = [
        subprocess.Popen([*command, str(tmp_path / str(rank)), str(rank), port], env=environment, cwd=TESTS.parent)
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    ranks = [torch.load(tmp_path / str(rank), weights_only=True) for rank in range(2)]
    alone = two_ranks.look(slice(None))
    text = [4 + 1 + 1 + len(list(kind().parameters())) for kind in two_ranks.LEARNED.values()]  # head, words, map
    tower = 1 + 12 + 5 + 2 + 1  # value; a block; two tables, a norm and a map; a head; a temperature
    assert len(alone) == 3 + 4 + 6 + 6 + 2 * (len(text) + sum(text)) + tower
    for name, expected in alone.items():
        torch.testing.assert_close((ranks[0][name] + ranks[1][name]) / 2, expected, rtol=1e-9, atol=1e-12, msg=name)
        assert expected.any(), name
    for kind in two_ranks.SYMMETRIC:
        assert torch.equal(ranks[0][f"{kind} value"], ranks[1][f"{kind} value"]), "each knows the whole batch"
