"""Small stores and runs for the tests of priors."""

from pathlib import Path

import torch
from export.stores import small_store
from hydra import compose, initialize_config_dir

from imtok.commands.prior import build_prior_run
from imtok.config import register_schemas
from imtok.folders import config_folder
from imtok.training.token_run import TokenRun

KEYS = [f"{number}.png" for number in range(24)]
TINY = (
    "prior.trunk.width=16",
    "prior.trunk.depth=1",
    "prior.trunk.heads=2",
    "val_fraction=0.2",
    "trainer.max_steps=6",
    "trainer.batch_size=4",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
    "trainer.log_every=2",
    "trainer.save_every=2",
    "trainer.keep=9",
    "optimizer.warmup_steps=2",
)


def store(folder: Path, kind: str = "one slot"):
    """A store of 24 random images of three classes."""
    return small_store(folder, kind, keys=KEYS)


def prior_run(folder: Path, tokens: Path, *overrides: str) -> TokenRun:
    """A run of a small prior on a store."""
    register_schemas("prior")
    groups = [word for word in overrides if word.split("=")[0] in ("prior", "prior/head", "condition", "trainer")]
    words = [*groups, *TINY, f"store={tokens}", f"out={folder}", *(word for word in overrides if word not in groups)]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("prior", words)
    return build_prior_run(config, folder)


def in_float64(run: TokenRun) -> TokenRun:
    """The same run with weights in double precision."""
    run.net.double()
    return run


def train_priors(root: str, names: list[str]) -> None:
    """A run for each of some kinds, in float64, over all processes that there are."""
    import os

    from imtok.training.token_run import train_on_tokens

    world = int(os.environ.get("WORLD_SIZE", 1))
    ddp = ("trainer=ddp", "trainer.strategy=ddp", f"trainer.devices={world}") if world > 1 else ()
    torch.set_num_threads(1)
    for name in names:
        given = ["prior.trunk.dropout=0", "prior.prefix.drop=0", f"prior={name}", *ddp]
        train_on_tokens(in_float64(prior_run(Path(root) / f"{name}_{world}", Path(root) / "tokens", *given)))
