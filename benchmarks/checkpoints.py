"""What checkpoints of large runs cost: python benchmarks/checkpoints.py plan | whole | beside | shards.

plan     A net of 2.8 billion parameters in shards on eight imitated devices, on shapes: bytes and files of each rank.
whole    A run of 200 million parameters on the CPU that saves between two steps, is stopped, and goes on.
beside   The same, written beside the steps.
shards   The same in shards; two processes by torchrun --nproc-per-node 2 benchmarks/checkpoints.py shards.

The first start of a run stops it after four steps, the second one goes on to six. Each prints a line of JSON: seconds
that steps waited for checkpoints, the peak of memory that belongs to the process alone, what it holds at the end, and
the bytes that it hashed and loaded at its start. Takes 15 GB of memory and disk.
"""

import argparse
import json
import logging
import math
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
RUN = [
    *("encoder=vit", "decoder=vit", "encoder.depth=14", "decoder.depth=14", "image_size=32", "trainer.batch_size=2"),
    *("trainer.max_steps=6", "trainer.save_every=2", "trainer.keep=1", "trainer.pictures_every=0", "trainer.threads=1"),
    *("trainer.workers=0", "trainer.accelerator=cpu", "data.crops_per_photo=1", "optimizer.warmup_steps=1"),
]
GB = 1e9


class Memory:
    """The most that this process has held for itself, without pages of files, in bytes."""

    def __init__(self) -> None:
        self.peak = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def now(self) -> int:
        """What it holds now."""
        rows = Path("/proc/self/status").read_text().splitlines()
        return next(int(row.split()[1]) * 1024 for row in rows if row.startswith("RssAnon"))

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, self.now())
            time.sleep(0.05)


def counted(owner: Any, name: str, note: Callable[..., None]) -> None:
    """Let a function note its arguments before it does its work."""
    original = getattr(owner, name, None)
    if original is not None:

        def noted(*arguments: Any, **more: Any) -> Any:
            note(*arguments)
            return original(*arguments, **more)

        setattr(owner, name, noted)


def start(folder: Path, *overrides: str) -> dict[str, Any]:
    """One start of the run, and what it cost."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    from imtok.commands.train import build_run
    from imtok.overrides import in_full
    from imtok.training import checkpoints, saving
    from imtok.training.run import train

    read, waited, memory, began = [0, 0], list[float](), Memory(), [False]
    save = saving.Saving.save

    def timed(self: Any, trainer: Any, task: Any) -> None:
        before, step = time.perf_counter(), self.saved_step
        save(self, trainer, task)
        if self.saved_step != step and task.step < 6:
            waited.append(round(time.perf_counter() - before, 2))

    def hashed(path: Path) -> None:
        read[0] += 0 if began[0] else path.stat().st_size

    def loaded(_reader: Any, _file: Any, item: Any, *_: Any) -> None:
        read[1] += 4 * int(torch.tensor(item.lengths).prod())

    saving.Saving.save = timed
    modules = [checkpoints, *(module for name, module in sys.modules.items() if name == "imtok.training.shards")]
    for module in modules:
        counted(module, "stamp", hashed)

    def opened(path: Any, *_: Any) -> None:
        read[1] += path.stat().st_size if isinstance(path, Path) else 0  # else it is what ranks told each other

    counted(checkpoints, "load_file", opened)
    counted(torch, "load", opened)
    counted(HuggingFaceStorageReader, "_process_read_request", loaded)
    counted(saving.Saving, "on_train_batch_end", lambda *_: began.__setitem__(0, True))
    from hydra import compose, initialize_config_dir

    from imtok.config import register_schemas
    from imtok.folders import config_folder

    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=in_full("train", [*RUN, f"out={folder}", *overrides]))
    kept = list[int]()
    counted(saving.Saving, "on_train_end", lambda *_: kept.append(memory.now()))
    train(build_run(config, folder))
    return {
        "seconds_waited": waited,
        "peak_gb": round(memory.peak / GB, 2),
        "at_end_gb": round(max(kept, default=0) / GB, 2),
        "hashed_gb": round(read[0] / GB, 2),
        "loaded_gb": round(read[1] / GB, 2),
    }


def local_plan(rank: int, devices: int, net: torch.nn.Module) -> tuple[Any, int, int]:
    """What one rank holds, as torch plans it; how many files that makes, and the bytes that all ranks hold together."""
    import torch.distributed as dist
    from torch.distributed.checkpoint.default_planner import create_default_local_save_plan
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from imtok.training.sharding import shard
    from imtok.training.shards import files_of

    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=devices)
    shard(net, init_device_mesh("cpu", (devices,)))
    state = {name: value.detach() for name, value in net.state_dict().items()}
    learning = {name: value.detach() for name, value in net.named_parameters() if value.requires_grad}
    parts = {"model": state, "ema": state, "optimizer.0.exp_avg": learning, "optimizer.0.exp_avg_sq": learning}
    tensors = {f"{kind}.{name}": value for kind, values in parts.items() for name, value in values.items()}
    whole = sum(value.numel() * value.element_size() for value in tensors.values())
    return create_default_local_save_plan(tensors, rank == 0), max(files_of(tensors).values()), whole


def plan(devices: int) -> dict[str, Any]:
    """What each rank would write of a recipe's checkpoint, on shapes."""
    from recipe_table import published
    from torch.distributed.checkpoint._dedup_save_plans import dedup_save_plans

    from imtok.build import build_tokenizer

    with torch.device("meta"):
        net = build_tokenizer(published("gigatok_xlxxl")).to("meta")
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        found = [pool.apply(local_plan, (rank, devices, net)) for rank in range(devices)]
    held, written = (
        [sum(math.prod(item.tensor_data.chunk.sizes) * 4 / GB for item in one.items) for one in plans]
        for plans in ([one for one, _, _ in found], dedup_save_plans([one for one, _, _ in found]))
    )
    return {
        "devices": devices,
        "whole_gb": round(found[0][2] / GB, 2),
        "held_by_a_rank_gb": [round(min(held), 2), round(max(held), 2)],
        "written_by_a_rank_gb": [round(min(written), 2), round(max(written), 2)],
        "all_written_gb": round(sum(written), 2),
        "files_of_a_rank": found[0][1],
    }


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["plan", "whole", "beside", "shards"])
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "imtok_checkpoints")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    if asked.what == "plan":
        sys.path.insert(0, str(Path(__file__).parent))
        found = plan(8)
    else:
        more = {"whole": [], "beside": ["trainer.save_async=true"]}.get(asked.what)
        more = ["trainer=fsdp", "trainer.devices=2", "trainer.save_async=true"] if more is None else more
        rank = int(os.environ.get("RANK", 0))
        going_on = asked.out.exists()
        found = {"rank": rank, "goes_on": going_on}
        if going_on:
            found |= start(asked.out, *more, "ckpt=last")
            shutil.rmtree(asked.out, ignore_errors=True)
        else:
            found |= start(asked.out, *more, "trainer.stop_at=4")
    sys.stdout.write(json.dumps({"what": asked.what, **found}) + "\n")


if __name__ == "__main__":
    main()
