"""What the tests of sharded training let several processes do together."""

import json
import os
from dataclasses import replace
from pathlib import Path

from hydra import compose, initialize_config_dir
from training.critics import Read, in_float64
from training.runs import PLAIN, TINY

from imtok.commands.train import build_run
from imtok.config import register_schemas
from imtok.distributed import rank
from imtok.folders import config_folder
from imtok.training import task
from imtok.training.run import Run, train
from imtok.training.sharding import own

# blocks of a transformer to shard, and convolutional stages; a codebook and last layers that stay whole
NETS = {
    "vit": [
        *("encoder=vit", "decoder=vit", "encoder.patch_size=4", "decoder.patch_size=4", "encoder.depth=2"),
        *("encoder.heads=2", "decoder.heads=2", "decoder.hidden=24", "decoder.depth=3"),
    ],
    "cnn": [
        *("encoder=cnn", "decoder=cnn", "encoder.channels=32", "decoder.channels=32", "encoder.multipliers=[1,2]"),
        *("decoder.multipliers=[1,2]", "encoder.blocks=1", "decoder.blocks=1", "encoder.latent_channels=null"),
    ],
}


def sharded_run(folder: Path, net: str, *overrides: str) -> Run:
    """A tiny run of one of these nets."""
    others = PLAIN if net == "vit" else ("encoder.", "decoder.")  # what these nets do not have
    tiny = [setting for setting in TINY if not setting.startswith(others)]
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=[*tiny, *NETS[net], f"out={folder}", *overrides])
    return build_run(config, folder)


def train_nets(root: str, runs: dict[str, list[str]]) -> None:
    """Runs in float64; a run is named after its net, with ``critic`` in its name it has one, and another net.

    Single processes do it alone, several of them with the strategy that the run's overrides name. Each writes down how
    many numbers of the tokenizer's weights it held, and how many there are.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    for name, overrides in runs.items():
        given = [*overrides, *([f"trainer.devices={world}"] if world > 1 else [])]
        run = sharded_run(Path(root) / name, name.split("_")[0], *given)
        if "critic" in name:
            run = replace(run, objective=Read(2, run.tokenizer.quantizer.dim))
        counts = _counting(train, in_float64(run))
        (Path(root) / f"{name}.{rank()}.json").write_text(json.dumps(counts))


def _counting(carry_out, run) -> tuple[int, int]:
    counts = [(0, 0)]
    finish = task.TokenizerTask._finish_step

    def count(self):
        parameters = list(self.tokenizer.parameters())
        counts[0] = (sum(own(p).numel() for p in parameters), sum(p.numel() for p in parameters))
        finish(self)

    task.TokenizerTask._finish_step = count
    try:
        carry_out(run)
    finally:
        task.TokenizerTask._finish_step = finish
    return counts[0]
