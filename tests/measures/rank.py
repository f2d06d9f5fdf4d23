"""One of two processes that evaluate together; ``test_ranks.py`` compares them with one."""

import json
from pathlib import Path

import torch
import torch.distributed as dist

from imtok.errors import InputError
from imtok.measures.evaluate import evaluate
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

SPLITS = {"uneven": ([0, 1, 2, 3, 4], [5, 6]), "empty": ([], [0, 1, 2, 3, 4, 5, 6])}


def tiny() -> Tokenizer:
    """A tokenizer that is the same in every process."""
    torch.manual_seed(3)
    part = {"patch_size": 8, "width": 16, "depth": 1}
    config = {
        "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", **part},
        "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [4, 3]},
        "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", **part},
    }
    return Tokenizer.from_config(config).double()


def batches(rows: list[int], bad: str | None = None) -> list[Batch]:
    """Those of seven images, two at a time."""
    images = torch.randint(0, 256, (7, 3, 24, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    index = torch.tensor(rows, dtype=torch.int64)
    parts = [
        Batch(images[part], torch.zeros_like(part), part, [f"image {number}" for number in part.tolist()])
        for part in index.split(2)
    ]
    if bad is not None:
        parts[-1].bad.append(bad)
    return parts


def run(rank: int, folder: str) -> None:
    """Evaluate this rank's part of every split and write down what came out."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    tokenizer, outcome = tiny(), {}
    for name, split in SPLITS.items():
        report = evaluate(tokenizer, batches(split[rank], bad=f"{rank}.png: is empty"))
        outcome[name] = {**report.values(), "versions": None}
    if rank == 1:
        with torch.no_grad():
            tokenizer.decoder.last_layer.fill_(float("nan"))
    try:
        evaluate(tokenizer, batches(SPLITS["uneven"][rank]))
    except InputError as error:
        outcome["failure"] = str(error)
    Path(folder, f"{rank}.json").write_text(json.dumps(outcome))
    dist.destroy_process_group()
