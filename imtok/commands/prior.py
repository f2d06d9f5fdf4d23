"""``imtok prior``: trains a generator on the tokens of a store, and says how many bits they cost it."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING, DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from imtok.build import by_name
from imtok.command_line import go_on, output_folder, this_job
from imtok.config import read_keys
from imtok.distributed import launched_rank
from imtok.errors import InputError
from imtok.export.shorter import ShortStore
from imtok.export.store import TokenStore
from imtok.image_commands import plain_values
from imtok.measures.report.titles import number
from imtok.optimizer_section import read_optimizer, typed_section
from imtok.paste import imtok_line
from imtok.priors.generator import BITS, Generator
from imtok.priors.layout import TokenLayout
from imtok.priors.rows import TokenRows, split_rows
from imtok.tables import print_whole
from imtok.training.rates import build_schedules
from imtok.training.settings import EMASettings, TrainerSettings
from imtok.training.token_run import TokenRun, train_on_tokens

_COUNTED = {"uniform": "all ids as likely", "unigram": "how often each id is", "bigram": "given the token before"}


@dataclass
class PriorKeys:
    """A prior and how it is trained. configs/prior.yaml explains each."""

    prior: Any = MISSING
    condition: Any = None
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
            problems.append(f"trainer.pictures_every must be 0: a prior has none, got {self.trainer.pictures_every}")
        if self.seed < 0:
            problems.append(f"seed must not be negative, got {self.seed}")
        several = self.trainer.num_nodes > 1 or str(self.trainer.devices) not in ("auto", "1")
        if not self.out and several and not problems:
            problems.append("out=DIR must be given with several processes, so that all of them write to one folder")
        return problems


@dataclass
class Keys(PriorKeys):
    """A token store, a prior and how it is trained. configs/prior.yaml explains each."""

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


def run(config: DictConfig) -> None:
    """Train a prior, and say what it knows of tokens that it has not seen."""
    console = Console(highlight=False, quiet=launched_rank() != 0)
    folder = output_folder(config, "prior")
    outcome = train_on_tokens(build_prior_run(config, folder))
    if outcome.finished_before:
        line = f"already finished: {folder} is at step {outcome.step}, its last; nothing was changed"
        console.print(line, soft_wrap=True, markup=False)
    if outcome.found is None:
        why = f"by signal {outcome.signal}" if outcome.signal else "as the config says"
        console.print(f"stopped {why} after step {outcome.step}, all saved", soft_wrap=True, markup=False)
        console.print(f"go on with: {go_on(folder, 'prior')}", soft_wrap=True, markup=False)
        if outcome.signal:
            sys.exit(128 + outcome.signal)
        return
    print_whole(_table(outcome.found), console)
    following = imtok_line("sample", prior=folder, tokenizer="RUN", n=64, out=folder / "samples")
    console.print(f"sample:   {following}", soft_wrap=True, markup=False)


def build_prior_run(config: DictConfig, folder: Path) -> TokenRun:
    """Build everything that a prior's config describes.

    Raises:
        InputError: If a part refuses its settings, or stores do not go together.
    """
    plain = plain_values(config)
    plain["optimizer"] = typed_section(plain["optimizer"])
    typed = read_keys(config, Keys)
    store = _open(typed.store, typed.length)
    store.check_contents()  # a head of bits would take an id that is too large for another one
    rows, held_out = _rows(store, typed)
    layout = TokenLayout.of(*dict.fromkeys((rows.store, held_out.store)))
    facts = {name: store.manifest.get(name) for name in ("tokenizer_sha256", "codes_sha256", "image_size", "classes")}
    facts |= {"condition": store.condition.facts} if store.condition.facts else {}
    facts |= {name: store.manifest[name] for name in ("lengths", "prefixes") if name in store.manifest}
    built = {"prior": plain["prior"], "layout": _plain(layout), "tokens": facts}
    if plain.get("condition"):
        built["condition"] = plain["condition"]
    torch.manual_seed(typed.seed)
    try:
        generator = Generator.from_config(built, packages=None, key="prior")
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"prior: {error}") from None
    if generator.condition is not None:
        generator.condition.prepare()
        for one in dict.fromkeys((rows.store, held_out.store)):
            _require_told(generator, one)
    schedules = build_schedules(typed.schedule, typed.optimizer, typed.trainer.max_steps)
    return TokenRun(
        net=generator,
        rows=rows,
        held_out=held_out,
        trainer=typed.trainer,
        optimizer=typed.optimizer,
        ema=typed.ema,
        folder=folder,
        seed=typed.seed,
        config=plain,
        config_yaml=OmegaConf.to_yaml(OmegaConf.create(plain)),
        ckpt=typed.ckpt,
        loggers=by_name(typed.logger),
        callbacks=by_name(typed.callback),
        allow_change=tuple(typed.allow_change),
        command=this_job(folder),
        schedules={"prior": schedules["tokenizer"]} if schedules else {},
    )


def _open(folder: str, length: int | None) -> TokenStore:
    """A store, or the first so many tokens of each of its images."""
    store = TokenStore(folder)
    return store if length is None else ShortStore(store, length)


def _rows(store: TokenStore, keys: Keys) -> tuple[TokenRows, TokenRows]:
    if keys.val is None:
        return split_rows(store, keys.val_fraction)
    other = _open(keys.val, keys.length)
    if any(other.manifest[name] != store.manifest[name] for name in ("tokenizer_sha256", "tokens", "vocab_sizes")):
        raise InputError(f"val={keys.val} was exported by another tokenizer than store={keys.store}; export it again")
    other.check_contents()
    return TokenRows(store), TokenRows(other)


def _require_told(generator: Generator, store: TokenStore) -> None:
    """Refuse a store that says nothing of what the condition reads."""
    reads = generator.condition.reads if generator.condition is not None else ()
    if "caption" in reads and not store.captioned:
        raise InputError(f"{store.folder} has no captions, which the condition reads; export data that has some")
    if "label" in reads:
        labels = [int(shard.labels.max()) for shard in store.shards() if len(shard.labels)]
        if max(labels, default=-1) < 0:
            raise InputError(f"{store.folder} has no labels, which the condition reads; export data that has some")
        classes = generator.condition.classes if generator.condition is not None else None
        if classes is not None and max(labels) >= classes:
            raise InputError(f"condition.classes must be above every label, got {classes} and label {max(labels)}")


def _table(found: dict[str, Any]) -> Table:
    rows = Table("bits per", "value", "")
    at_most = "" if found["exact"] else "at most: a bound above the prior's own"
    rows.add_row("token", number(found[BITS]), at_most)
    for name, what in _COUNTED.items():
        rows.add_row(f"token, {name}", number(found[f"{name}_bits_per_token"]), what)
    rows.add_row("image", number(found["bits_per_image"]), f"over {found['images']} held-out images")
    rows.add_row("pixel", number(found["bits_per_pixel"]), "")
    return rows


def _plain(layout: TokenLayout) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(layout).items()}
