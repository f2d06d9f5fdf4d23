"""``imtok probe``: says what a small generator makes of a tokenizer's tokens, in one command."""

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING, DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from imtok.build import build_data, build_protocol
from imtok.command_line import output_folder, pasted
from imtok.commands.prior import PriorKeys, build_prior_run
from imtok.conditions.given import ConditionConfig, DecodeConditionConfig, give
from imtok.config import read_keys
from imtok.data.base import Data
from imtok.data.order.loader import evaluation_loader
from imtok.data.order.sampler import places
from imtok.data.remarks import say_remarks
from imtok.data.told import with_channels
from imtok.distributed import launched_rank
from imtok.errors import InputError
from imtok.export.feed import make_feed
from imtok.export.store import TokenStore
from imtok.export.tokens import export_tokens
from imtok.export.views import Views
from imtok.files import write_json
from imtok.image_commands import SpendingKeys, find_device, plain_values
from imtok.measures.pictures import Pictures
from imtok.measures.protocol import protocol_id
from imtok.measures.report.origin import Origin, now
from imtok.measures.report.results import Report
from imtok.measures.report.titles import number
from imtok.measures.report.writing import REPORT
from imtok.priors.asked import asked_of
from imtok.priors.generator import Generator
from imtok.priors.probing import (
    claim_probe,
    draw_sheet,
    measure,
    write_originals,
    write_reconstructions,
    write_unigram,
)
from imtok.priors.samples import MARKER, write_samples
from imtok.priors.sampling import Sampling
from imtok.run_data import take_data
from imtok.tables import print_whole
from imtok.tokenizer import Tokenizer
from imtok.training.token_run import train_on_tokens

_BITS = ("bits_per_token", "bits_per_image", "bits_per_pixel", "unigram_bits_per_token", "bigram_bits_per_token")
_HIGHER = ("precision", "recall", "inception_score")


@dataclass
class Keys(SpendingKeys, PriorKeys):
    """A tokenizer, its data, a prior and how it is sampled. configs/probe.yaml explains each."""

    tokenizer: str = MISSING
    data: Any = None
    split: str | None = None
    image_size: int | None = None
    quality: float | None = None
    n: int = 1000
    sampling: Any = MISSING
    protocol: Any = MISSING
    extractor: Any = None
    batch_size: int = 64
    workers: int = 0
    device: str = "auto"
    threads: int | None = None

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        given = {name: getattr(self, name) for name in ("n", "batch_size", "image_size", "threads")}
        problems = super().check() + self.check_spending() + ConditionConfig(self.quality).check()
        problems += [f"{name} must be at least 1, got {v}" for name, v in given.items() if v is not None and v < 1]
        if self.n == 1:
            problems.append("n must be at least 2, got 1: one sample has no spread")
        if self.split not in (None, "train", "all"):
            problems.append(f"split must be train, all or null, got {self.split}: a prior learns from the first")
        try:
            Sampling(seed=self.seed, **self.sampling)
        except (TypeError, ValueError) as error:
            problems.append(f"sampling: {error}")
        return problems


def run(config: DictConfig) -> None:
    """Export, train a prior, sample, score; every stage that is done is not done again."""
    run_probe(config, output_folder(config, "probe"), pasted("probe"))


def run_probe(config: DictConfig, folder: Path, command: str) -> Report:
    """Carry out what is left of a probe, write ``report.json`` and ``samples.png``, and show the numbers.

    Args:
        config: As it was checked.
        folder: Of the probe; new, or of the same one.
        command: What makes it again.

    Raises:
        InputError: If the folder holds something else, or a part refuses its settings.
    """
    console = Console(highlight=False)
    protocol = build_protocol(plain_values(config))
    protocol.build()  # its weights are looked for before any work
    device = find_device(config)
    tokenizer = Tokenizer.load(config.tokenizer).to(device)
    takes = {*tokenizer.encoder.takes, *tokenizer.decoder.takes}
    tokenizer.condition = give(tokenizer.condition, takes, ConditionConfig(config.quality))
    side = config.image_size or tokenizer.image_size
    if side is None:
        raise InputError("image_size must be given: the tokenizer's config does not say what it was trained on")
    console.print(take_data(config, [config.tokenizer]), soft_wrap=True, markup=False)
    plain, keys = plain_values(config), read_keys(config, Keys)
    data, facts = build_data(plain), _facts(plain)
    fingerprint = tokenizer.fingerprint()
    facts |= keys.spending.facts | ConditionConfig(keys.quality).facts
    its_own = {"tokenizer": fingerprint, "seed": keys.seed, "data": plain["data"], "image_size": side}
    claim_probe(folder, facts | its_own)

    def say(stage: str) -> None:
        console.print(f"[dim]{stage}[/dim]")

    # Tokens of the images to learn from, and of those to measure on.
    stores = {name: _export(tokenizer, data, split, folder / name, side, keys, say) for name, split in _SPLITS.items()}
    if len(stores["held_out"]) < 2:
        raise InputError(f"split=val holds {len(stores['held_out'])} images, and samples are held against at least 2")
    # A prior.
    outcome = train_on_tokens(build_prior_run(_prior_config(config, folder), folder / "prior"))
    if outcome.signal:
        console.print(f"stopped by signal {outcome.signal}; the same command goes on", soft_wrap=True, markup=False)
        sys.exit(128 + outcome.signal)
    if outcome.found is None:
        raise InputError(
            f"the prior stopped at step {outcome.step}, as trainer.stop_at says; the same command without it goes on"
        )
    if launched_rank() != 0:  # what is left takes one process
        sys.exit(0)
    # Its samples, and what they are held against.
    settings, size = Sampling(seed=keys.seed, **plain["sampling"]), (side, side)
    if not (folder / "samples" / MARKER).is_file():
        generator = Generator.load(folder / "prior")
        asked = asked_of(generator, tokenizer, keys.n, DecodeConditionConfig(missing=True))
        samples = folder / "samples"
        write_samples(generator, tokenizer, keys.n, samples, size, settings, asked, keys.batch_size, device)
    say("pictures")
    held_out = with_channels(data.evaluation(side, "val"), tokenizer.channels)
    chosen = places(keys.n, len(stores["held_out"]))
    some = held_out.spread(keys.n)
    loader = evaluation_loader(some, keys.batch_size, keys.workers)
    write_originals(loader, folder / "reference", chosen if some is held_out else np.arange(len(chosen)))
    write_reconstructions(tokenizer.to(device), stores["held_out"], folder / "reconstructions", size, keys.n)
    write_unigram(tokenizer, stores["tokens"], folder / "unigram", size, keys.n, keys.seed)
    found = measure(folder, protocol, device, say)
    draw_sheet(folder)
    # One report of all.
    numbers = {name: outcome.found[name] for name in _BITS} | found.metrics
    # The hash of the reference stands for the data: a path says nothing on another machine.
    facts |= {"extractor": found.facts["extractor_hash"], "data": found.facts["reference"], "size": side}
    facts |= {"tokens": len(stores["tokens"])}
    identity = {"id": protocol_id(facts), **facts}
    report = Report(
        images=keys.n,
        image_size=size,
        vocab_sizes=tuple(tokenizer.quantizer.vocab_sizes),
        bits_per_token=tokenizer.quantizer.bits_per_token,
        metrics=numbers,
        slots=[],
        conventions={},
        absent=found.absent,
        bad=[],
        pictures=Pictures(0),
        protocol=found.facts,
        ids=dict.fromkeys(numbers, identity),
        higher_is_better={name: name.startswith(_HIGHER) for name in numbers if "unigram" not in name},
        warnings=[*found.warnings, *([_SEEN] if keys.split == "all" else [])],
        name=Path(config.tokenizer).name,
        tokenizer=fingerprint,
        parameters=tokenizer.parameter_count(),
        when=now(),
        origin=Origin(plain["data"], "val", config.tokenizer, command),
    )
    write_json(folder / REPORT, report.values())
    _show(report, identity["id"], folder, console)
    return report


_SEEN = "split=all: the prior has learnt from the held-out images as well"
_SPLITS = {"tokens": "train", "held_out": "val"}


def _facts(plain: dict[str, Any]) -> dict[str, Any]:
    """What makes two probes alike, beside data and extractor: a prior, its training, and how it is sampled. No seed."""
    trainer = {name: plain["trainer"][name] for name in ("max_steps", "batch_size", "clip", "precision")}
    told = {name: plain[name] for name in ("prior", "condition", "optimizer", "schedule", "ema", "sampling")}
    ends = {"callback": plain["callback"]} if plain.get("callback") else {}  # it may end a run before its budget
    ends |= {"lightning": plain["trainer"]["lightning"]} if plain["trainer"].get("lightning") else {}
    return {"probe": 2, **told, **ends, "trainer": trainer, "samples": plain["n"], "learns": plain["split"] or "train"}


def _export(tokenizer: Tokenizer, data: Data, split: str, folder: Path, side: int, keys: Keys, say: Any) -> TokenStore:
    say(f"tokens of split={split}")
    wanted = (keys.split or split) if split == "train" else split
    images = with_channels(data.evaluation(side, wanted), tokenizer.channels)
    say_remarks(images.remarks)
    feed = make_feed(images, 10_000, keys.batch_size, keys.workers)
    about = {"image_size": images.image_size, "split": wanted}
    told, device = ConditionConfig(keys.quality, missing=True), next(tokenizer.parameters()).device
    export_tokens(tokenizer, feed, folder, Views(), device, about, told, keys.spending)
    return TokenStore(folder)


def _prior_config(config: DictConfig, folder: Path) -> DictConfig:
    """The config of ``imtok prior`` within that of a probe."""
    own = {one.name: config[one.name] for one in fields(PriorKeys)}
    stores = {"store": str(folder / "tokens"), "val": str(folder / "held_out")}
    return OmegaConf.create({**own, **stores, "out": str(folder / "prior"), "ckpt": "last"})


def _show(report: Report, identity: str, folder: Path, console: Console) -> None:
    rows = Table("metric", "value")
    for name, value in report.metrics.items():
        rows.add_row(name, number(value))
    console.print(f"[bold]probe {identity}[/bold]: {report.images} samples, compare only numbers of this id")
    print_whole(rows, console)
    for name in ("samples.png", REPORT, "samples", "prior"):
        console.print(f"  {folder / name}", soft_wrap=True, markup=False)
