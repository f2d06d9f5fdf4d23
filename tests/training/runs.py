"""Small real runs for the tests of training."""

from pathlib import Path

from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from imtok.build import build_run
from imtok.config import config_folder, register_schemas
from imtok.training.checkpoints import load
from imtok.training.run import Outcome, Run, train

# 9 photographs x 2 crops = 18 samples per epoch; 14 steps of 4 are a little more than 3 epochs.
TINY = (
    "data.crops_per_photo=2",
    "image_size=16",
    "encoder.width=16",
    "encoder.depth=1",
    "decoder.width=16",
    "decoder.depth=1",
    "quantizer.codebook_size=32",
    "quantizer.restart_below=0.5",
    "quantizer.usage_decay=0.5",
    "optimizer.warmup_steps=3",
    "optimizer.weight_decay=0.1",
    "trainer.max_steps=14",
    "trainer.batch_size=4",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
    "trainer.log_every=3",
    "trainer.save_every=100",
    "trainer.pictures_every=0",
)


def tiny_run(folder: Path, *overrides: str) -> Run:
    """A run of the default recipe at its smallest."""
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=[*TINY, f"out={folder}", *overrides])
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
    columns = [index for index, name in enumerate(header) if name != "images_per_second"]
    return [",".join(row[index] for index in columns) for row in [header, *rows]]


def weights_of(folder: Path) -> dict[str, bytes]:
    """The saved tokenizer's weights."""
    weights = load_file(folder / "tokenizer/model.safetensors")
    return {name: value.numpy().tobytes() for name, value in weights.items()}
