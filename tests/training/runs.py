"""Small real runs for the tests of training."""

import tarfile
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from PIL import Image
from safetensors.torch import load_file

from imtok.commands.train import build_run
from imtok.config import register_schemas
from imtok.folders import config_folder
from imtok.overrides import in_full
from imtok.training.checkpoints import load
from imtok.training.records import SPEED
from imtok.training.run import Outcome, Run, train
from imtok.training.steps import Task

# What only the patch encoder and decoder have, and what a tiny run is quicker without.
PLAIN = ("decoder.shortcut=false", "decoder.deblock=0.0", "decoder.up_channels=[]")

# 9 photographs x 2 crops = 18 samples per epoch; 14 steps of 4 are a little more than 3 epochs.
TINY = (
    "data.crops_per_photo=2",
    "image_size=16",
    "encoder.width=16",
    "encoder.depth=1",
    "decoder.width=16",
    "decoder.depth=1",
    *PLAIN,
    "quantizer.codebook_size=32",
    "quantizer.restart_below=0.5",
    "quantizer.usage_decay=0.5",
    "optimizer.warmup_steps=3",
    "optimizer.weight_decay=0.1",
    "trainer.max_steps=14",
    "trainer.batch_size=4",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
    "trainer.workers=0",
    "trainer.log_every=3",
    "trainer.save_every=100",
    "trainer.pictures_every=0",
)


def tiny_overrides(folder: Path, *overrides: str) -> list[str]:
    """The command line of such a run."""
    groups = [override for override in overrides if override.startswith(("data=", "trainer=", "quantizer="))]
    replaced = tuple(override.split("=")[0] + "." for override in groups if not override.startswith("trainer="))
    if "quantizer=vq" in groups:
        replaced = tuple(name for name in replaced if name != "quantizer.")
    replaced += tuple(key for key in PLAIN if any(one.startswith(f"{key.split('.')[0]}=") for one in overrides))
    tiny = [override for override in TINY if not (replaced and override.startswith(replaced))]
    return [*groups, *tiny, f"out={folder}", *(override for override in overrides if override not in groups)]


def tiny_run(folder: Path, *overrides: str) -> Run:
    """A run of the default recipe at its smallest."""
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=in_full("train", tiny_overrides(folder, *overrides)))
    return build_run(config, folder)


def run_tiny(folder: Path, *overrides: str) -> Outcome:
    """Carry such a run out."""
    return train(tiny_run(folder, *overrides))


def state_of(folder: Path, step: int = 14) -> dict[str, object]:
    """Everything that a run has computed by ``step``, in comparable form: weights, averages, optimisers, losses."""
    checkpoint = load(folder / "checkpoints" / f"step_{step}")
    flat: dict[str, object] = {f"model.{name}": value.numpy().tobytes() for name, value in checkpoint.model.items()}
    flat |= {f"ema.{name}": value.numpy().tobytes() for name, value in checkpoint.ema.items()}
    for index, optimizer in enumerate(checkpoint.state["optimizers"]):
        for name, state in optimizer["state"].items():
            flat |= {f"optimizer{index}.{name}.{key}": value.numpy().tobytes() for key, value in state.items()}
    flat["counters"] = (checkpoint.step, checkpoint.state["skipped"], checkpoint.state["ema_updates"])
    flat["losses"] = losses_of(folder)
    return flat


def losses_of(folder: Path) -> list[str]:
    """``metrics.csv`` without its speed."""
    header, *rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    columns = [index for index, name in enumerate(header) if name not in SPEED]
    return [",".join(row[index] for index in columns) for row in [header, *rows]]


def weights_of(folder: Path) -> dict[str, bytes]:
    """The saved tokenizer's weights."""
    weights = load_file(folder / "tokenizer/model.safetensors")
    return {name: value.numpy().tobytes() for name, value in weights.items()}


def same_but_for_losses(folder: Path, other: Path) -> bool:
    """Whether two runs computed the same; of the losses, those rows that both have."""
    left, right = state_of(folder), state_of(other)
    rows, others = left.pop("losses"), right.pop("losses")
    assert isinstance(rows, list)
    assert isinstance(others, list)
    shorter = min(len(rows), len(others)) - 1
    return left == right and rows[-shorter:] == others[-shorter:]


def write_images(folder: Path, number: int) -> Path:
    """Small PNGs, each unlike the others, in two classes."""
    for index in range(number):
        path = folder / "ab"[index % 2] / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (20, 18, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def write_shards(folder: Path, images: Path, shards: int = 3) -> Path:
    """The same images in tar shards."""
    folder.mkdir(parents=True)
    paths = sorted(images.rglob("*.png"))
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:03d}.tar", "w") as archive:
            for path in paths[shard::shards]:
                archive.add(path, f"{path.stem}.png")
    return folder


def note_keys(monkeypatch) -> list[str]:
    """The names of the images that are trained on from now on, in order."""
    seen: list[str] = []
    original = Task.training_step

    def noted(task, batch, batch_idx):
        seen.extend(batch.key)
        original(task, batch, batch_idx)

    monkeypatch.setattr(Task, "training_step", noted)
    return seen
