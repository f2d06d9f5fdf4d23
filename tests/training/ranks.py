"""What the tests let several processes do together."""

import json
import os
import time
from datetime import timedelta
from pathlib import Path

import torch
from training.critics import in_float64, read_run
from training.runs import tiny_run, write_images

from imtok.data.order.loader import evaluation_loader
from imtok.data.sources.folder import Folder
from imtok.distributed import (
    from_main,
    gather_rows,
    gather_values,
    launched_rank,
    mean_over_ranks,
    rank,
    sum_over_ranks,
    world_size,
)
from imtok.errors import InputError
from imtok.measures.evaluate import evaluate
from imtok.training.patience import limit_exchange
from imtok.training.run import train

_DDP = ("trainer=ddp", "trainer.strategy=ddp")


def train_many(root: str, runs: dict[str, list[str]]) -> None:
    """Runs in float64, one after the other; one with ``critic`` in its name has one, and another net."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    for name, overrides in runs.items():
        given = [*overrides, *((*_DDP, f"trainer.devices={world}") if world > 1 else ())]
        make = read_run if "critic" in name else tiny_run
        train(in_float64(make(Path(root) / name, *given)))


def collectives(out: str) -> None:
    """Each collective once; rank 0 writes down what it got."""
    torch.distributed.init_process_group("gloo", init_method="env://")
    value = torch.tensor([1.0, 2.0], dtype=torch.float64) * (rank() + 1)
    leaf = value.clone().requires_grad_(True)
    mean = mean_over_ranks(leaf)
    mean.square().sum().backward()
    assert leaf.grad is not None

    def fails() -> None:
        raise InputError("the disk is full")

    try:
        from_main(fails)
        said = "nothing"
    except InputError as error:
        said = str(error)
    facts = {
        "world": world_size(),
        "sum": sum_over_ranks(value).tolist(),
        "mean": mean.tolist(),
        "gradient": (sum_over_ranks(leaf.grad) / world_size()).tolist(),
        "rows": gather_rows(value[None]).tolist(),
        "values": gather_values({"rank": launched_rank()}),
        "from_main": from_main(lambda: f"rank {rank()}"),
        "said": said,
        "gave_up": _gives_up(),
    }
    (Path(out) / f"{rank()}.json").write_text(json.dumps(facts))


def _gives_up() -> bool:
    """Whether rank 0 gives up on rank 1, which comes late, when exchange within steps may take one second."""
    limit_exchange(timedelta(seconds=1), [torch.distributed.group.WORLD])
    if rank() == 1:
        time.sleep(3)
        return True
    try:
        sum_over_ranks(torch.ones(1))
    except RuntimeError:
        return True
    return False


def evaluate_many(root: str, numbers: list[int]) -> None:
    """Measure data sets of so many images; every rank writes down what it got."""
    if "WORLD_SIZE" in os.environ:
        torch.distributed.init_process_group("gloo", init_method="env://")
    tokenizer = tiny_run(Path(root) / "unused").tokenizer
    for number in numbers:
        images = Folder(write_images(Path(root) / f"{number}.{world_size()}.{rank()}", number)).evaluation(16)
        report = evaluate(tokenizer, evaluation_loader(images, 3, 0, rank(), world_size()))
        facts = {"images": report.images, **report.metrics, "slots": report.slots}
        (Path(root) / f"{world_size()}.{rank()}.{number}.json").write_text(json.dumps(facts))
