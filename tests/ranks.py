"""Runs on several ranks, and whether they came to the same."""

import numpy as np
import torch
from training.launch import Launched, launch_ranks

from imtok.training.checkpoints import load
from imtok.training.records import SPEED


def run_ranks(world, name, arguments, folder):
    if world == 1:
        processes = [Launched(name, arguments, folder.parent / f"{folder.name}.log")]
    else:
        processes = launch_ranks(world, name, arguments, folder)
    codes = [process.wait(300) for process in processes]
    assert codes == [0] * world, "\n".join(process.output for process in processes)


def tensors(folder, step=20):
    checkpoint = load(folder / "checkpoints" / f"step_{step}")
    found = {f"model.{name}": value for name, value in checkpoint.model.items()}
    found |= {f"ema.{name}": value for name, value in checkpoint.ema.items()}
    for index, optimizer in enumerate(checkpoint.state["optimizers"]):
        for name, state in optimizer["state"].items():
            found |= {f"optimizer{index}.{name}.{key}": value for key, value in state.items()}
    return found


def assert_same_run(folder, other, step=20):
    left, right = tensors(folder, step), tensors(other, step)
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(
            right[name], value, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


def table(folder):
    header, *rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    return [{name: float(cell) for name, cell in zip(header, row, strict=True) if name not in SPEED} for row in rows]


def assert_same_log(folder, other):
    rows, others = table(folder), table(other)
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, expected in zip(rows, others, strict=True):
        assert row.keys() == expected.keys()
        np.testing.assert_allclose(list(row.values()), list(expected.values()), rtol=1e-9, atol=1e-9)
