"""What commands share that train a net on the tokens of a store."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from rich.console import Console

from imtok.build import by_name
from imtok.classifiers.embedded import grid_of
from imtok.command_line import go_on, this_job
from imtok.errors import InputError
from imtok.export.codebook import read_codebook
from imtok.export.shorter import ShortStore
from imtok.export.store import TokenStore
from imtok.optimizer_section import read_optimizer
from imtok.priors.layout import TokenLayout
from imtok.priors.learner import TokenLearner
from imtok.priors.rows import TokenRows, split_rows
from imtok.training.rates import build_schedules
from imtok.training.settings import EMASettings, TrainerSettings
from imtok.training.token_run import TokenOutcome, TokenRun


@dataclass
class TokenTrainingKeys:
    """How a net is trained on tokens."""

    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    optimizer: Any = MISSING
    schedule: Any = None
    ema: EMASettings = field(default_factory=EMASettings)
    logger: Any = None
    callback: Any = None
    seed: int = 0
    out: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.optimizer, dict):
            self.optimizer = read_optimizer(self.optimizer)

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        problems = [*self.trainer.check(), *self.optimizer.check(self.trainer.max_steps), *self.ema.check()]
        if self.trainer.pictures_every:
            problems.append(
                f"trainer.pictures_every must be 0: a run on tokens has none, got {self.trainer.pictures_every}"
            )
        if self.seed < 0:
            problems.append(f"seed must not be negative, got {self.seed}")
        several = self.trainer.num_nodes > 1 or str(self.trainer.devices) not in ("auto", "1")
        if not self.out and several and not problems:
            problems.append("out=DIR must be given with several processes, so that all of them write to one folder")
        return problems


@dataclass
class StoreKeys(TokenTrainingKeys):
    """A store to learn from, what is held out, and a run to go on with."""

    store: str = MISSING
    val: str | None = None
    val_fraction: float = 0.05
    length: int | None = None
    ckpt: str | None = None
    allow_change: list[str] = field(default_factory=list)

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        problems = super().check()
        if not 0 < self.val_fraction < 1:
            problems.append(f"val_fraction must lie in (0, 1), got {self.val_fraction}")
        if self.length is not None and self.length < 1:
            problems.append(f"length must be at least 1 token, got {self.length}")
        if self.ckpt == "last" and not self.out:
            problems.append("ckpt=last needs out=DIR: the run folder to go on with")
        return problems


@dataclass
class GridKeys(StoreKeys):
    """A store whose ids are read as the rows of its codebook, on a grid."""

    grid: list[int] | None = None

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        problems = super().check()
        if self.grid is not None and (len(self.grid) != 2 or min(self.grid) < 1):
            problems.append(f"grid must be rows and columns of tokens, as in [8,8], got {self.grid}")
        return problems


def of_vectors(keys: GridKeys, rows: TokenRows, held_out: TokenRows) -> dict[str, Any]:
    """Plain values of a store's vectors for a net: layout, width, grid, and the tokenizer of the tokens.

    Raises:
        InputError: If a store has no codebook, or the grid is not that of the tokens.
    """
    store = rows.store
    layout = TokenLayout.of(*dict.fromkeys((store, held_out.store)))
    if reason := store.manifest.get("codebook_absent"):
        raise InputError(
            f"{store.folder} has no codebook.safetensors, since {reason}; the rows of the codebook are the "
            "input here: export with a tokenizer of fewer codes"
        )
    tables = read_codebook(store.folder / "codebook.safetensors")
    grid = keys.grid or list(grid_of(layout.tokens, tuple(store.manifest["image_size"])))
    if grid[0] * grid[1] != layout.tokens:
        raise InputError(f"grid={grid} must have the {layout.tokens} tokens of {store.folder}")
    varies = layout.variable_length or layout.holes
    return {
        "layout": layout.plain
        | {"vocab_sizes": store.manifest["vocab_sizes"], "variable_length": varies, "holes": False},
        "dim": tables[0].shape[1],
        "grid": grid,
        "tokens": {name: store.manifest.get(name) for name in ("tokenizer_sha256", "codes_sha256", "image_size")},
    }


def open_rows(keys: StoreKeys) -> tuple[TokenRows, TokenRows]:
    """Rows to learn from and rows held out.

    Raises:
        InputError: If a store is damaged, or the two are not of one tokenizer.
    """
    store = _open(keys.store, keys.length)
    store.check_contents()  # a head of bits would take an id that is too large for another one
    if keys.val is None:
        return split_rows(store, keys.val_fraction)
    other = _open(keys.val, keys.length)
    if any(other.manifest[name] != store.manifest[name] for name in ("tokenizer_sha256", "tokens", "vocab_sizes")):
        raise InputError(f"val={keys.val} was exported by another tokenizer than store={keys.store}; export it again")
    other.check_contents()
    return TokenRows(store), TokenRows(other)


def token_run(
    net: TokenLearner, rows: tuple[TokenRows, TokenRows], keys: StoreKeys, plain: dict[str, Any], folder: Path
) -> TokenRun:
    """A run of a net on rows to learn from and rows held out.

    Args:
        net: As it starts.
        rows: Both.
        keys: Of the command.
        plain: The whole config as plain values.
        folder: The run folder.
    """
    schedules = build_schedules(keys.schedule, keys.optimizer, keys.trainer.max_steps)
    return TokenRun(
        net=net,
        rows=rows[0],
        held_out=rows[1],
        trainer=keys.trainer,
        optimizer=keys.optimizer,
        ema=keys.ema,
        folder=folder,
        seed=keys.seed,
        config=plain,
        config_yaml=OmegaConf.to_yaml(OmegaConf.create(plain)),
        ckpt=keys.ckpt,
        loggers=by_name(keys.logger),
        callbacks=by_name(keys.callback),
        allow_change=tuple(keys.allow_change),
        command=this_job(folder),
        schedules={net.name: schedules["tokenizer"]} if schedules else {},
    )


def say_outcome(outcome: TokenOutcome, folder: Path, command: str, console: Console) -> dict[str, Any] | None:
    """Say how a run ended, and leave if a signal ended it.

    Returns:
        What the net knows of held-out tokens; None if the run is not at its last step.
    """
    if outcome.finished_before:
        line = f"already finished: {folder} is at step {outcome.step}, its last; nothing was changed"
        console.print(line, soft_wrap=True, markup=False)
    if outcome.found is None:
        why = f"by signal {outcome.signal}" if outcome.signal else "as the config says"
        console.print(f"stopped {why} after step {outcome.step}, all saved", soft_wrap=True, markup=False)
        console.print(f"go on with: {go_on(folder, command)}", soft_wrap=True, markup=False)
        if outcome.signal:
            sys.exit(128 + outcome.signal)
    return outcome.found


def _open(folder: str, length: int | None) -> TokenStore:
    """A store, or the first so many tokens of each of its images."""
    store = TokenStore(folder)
    return store if length is None else ShortStore(store, length)
