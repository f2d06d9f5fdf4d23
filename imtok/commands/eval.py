"""``imtok eval``, the same as ``python eval.py``: measures tokenizers."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig
from rich.console import Console

from imtok.build import build_data, build_protocol
from imtok.command_line import output_folder, pasted
from imtok.config import read_keys
from imtok.data.contract import Images
from imtok.data.order.loader import evaluation_loader, watched
from imtok.data.reading.boxes import with_boxes
from imtok.data.remarks import say_remarks
from imtok.errors import InputError
from imtok.files import claim_output, sha256
from imtok.image_commands import ImagesKeys, SpendingKeys, WholeKeys, load_tokenizer, plain_values, told_images
from imtok.measures.boxes import require_boxes
from imtok.measures.choose import missing, refuse
from imtok.measures.evaluate import evaluate
from imtok.measures.named import NO_MEASURE, Sections
from imtok.measures.pictures import SHOWN, choose_shown
from imtok.measures.protocol import WHOLE, Protocol, prepare
from imtok.measures.report.origin import Origin
from imtok.measures.report.results import Report
from imtok.measures.report.side_by_side import claim_side_by_side, side_by_side, unique_names
from imtok.measures.report.writing import BESIDE, PAGE, REPORT, show, write_report
from imtok.measures.settings import Settings
from imtok.measures.stored import load_statistics
from imtok.run_data import take_data
from imtok.text import terminal
from imtok.tokenizer import Tokenizer
from imtok.training.folder import find_checkpoint


@dataclass
class Keys(WholeKeys, SpendingKeys, ImagesKeys):
    """Tokenizers, a data set, what to measure and where the report goes. configs/eval.yaml explains each."""

    tokenizer: Any = MISSING
    protocol: Any = MISSING
    extractor: Any = None
    measure: Any = None
    n: int | None = None
    weights: str = Settings.weights
    reference: str | None = None
    cache: str | None = None
    seed: int = Settings.seed
    skip_missing: bool = Settings.skip_missing

    @property
    def measures(self) -> Sections:
        """The sections that were not taken out by null, by name."""
        return {name: section for name, section in (self.measure or {}).items() if section is not None}

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        problems = [*super().check(), *([] if self.measures else [NO_MEASURE])]
        if self.n is not None and self.n < 1:
            problems.append(f"n must be at least 1 image or null (all), got {self.n}")
        if self.weights not in ("ema", "raw"):
            problems.append(f"weights must be ema or raw, got {self.weights}")
        if self.seed < 0:
            problems.append(f"seed must not be negative, got {self.seed}")
        problems += [*self.check_spending(), *self.check_whole(self.image_size)]
        if self.tokenizer == [] or not isinstance(self.tokenizer, (str, list)):
            problems.append(f"tokenizer must be a run folder, or several as [A,B], got {self.tokenizer!r}")
        return problems


def run(config: DictConfig) -> None:
    """Measure one tokenizer or several on the same images, and write a report of each.

    Raises:
        InputError: If tokenizers, images, metrics or the folder cannot be used.
    """
    typed, folder, console = read_keys(config, Keys), output_folder(config, "eval"), Console(highlight=False)
    sources = [typed.tokenizer] if isinstance(typed.tokenizer, str) else [str(source) for source in typed.tokenizer]
    # What is asked for, and where it goes.
    names = unique_names(sources)
    if len(sources) > 1:
        claim_side_by_side(folder)
    places = [folder / name if len(sources) > 1 else folder for name in names]
    for into in places:  # before hours of measuring, not after
        claim_output(into, REPORT)
    protocol = build_protocol(plain_values(config))
    protocol = protocol if typed.crop is None else replace(protocol, crop=WHOLE)
    whole = protocol.crop == WHOLE  # sizes may differ: one image at a time
    # On which images.
    console.print(take_data(config, sources, split="val"), soft_wrap=True, markup=False)
    plain = plain_values(config)
    data = build_data(plain)
    if not typed.skip_missing:
        require_boxes(typed.measures, plain["data"].get("boxes"))
    # What cannot be had of the last tokenizer is refused before the first is measured.
    for source in sources if len(sources) > 1 else ():
        other, _, size = load_tokenizer(config, source)
        require_metrics(typed, protocol, other, size)
        typed.spending.require(other, (size, size))
    # One tokenizer after another.
    reports = list[Report]()
    for source, name, into in zip(sources, names, places, strict=True):
        tokenizer, device, size = load_tokenizer(config, source)
        if typed.weights == "raw":
            _take_raw(tokenizer, source)
        images = told_images(data.evaluation(size, config.split), tokenizer, typed.condition)
        images = with_boxes(images, plain["data"].get("boxes"), data)
        say_remarks(images.remarks if not reports else ())
        origin = Origin(plain["data"], config.split or data.default_split, source, pasted("eval"))
        images = prepare(images, protocol, typed.n)
        settings = make_settings(typed, protocol, images)
        settings = replace(settings, untold=typed.condition.missing, condition=typed.condition.facts)
        settings = replace(settings, spending=typed.spending)
        loader = evaluation_loader(images, 1 if whole else config.batch_size, config.workers)
        batches = watched(loader, images.count, name)
        measured = evaluate(tokenizer, batches, device, SHOWN if whole else choose_shown(images).key, settings)
        report = replace(measured, name=name, origin=origin)
        write_and_show(report, into, console)
        reports.append(report)
    if len(reports) > 1:
        side_by_side(reports, folder, console)


def _take_raw(tokenizer: Tokenizer, source: str) -> None:
    """Put the weights of the run's last checkpoint in, as they are, without averaging."""
    found = find_checkpoint(Path(source), "last")
    if found is None:
        raise InputError(f"weights=raw needs a run folder with checkpoints, and {source} has none; give weights=ema")
    prefix = "tokenizer."
    weights = {k.removeprefix(prefix): value for k, value in found.weights().items() if k.startswith(prefix)}
    tokenizer.load_state_dict(weights)


def make_settings(config: Keys, protocol: Protocol, images: Images) -> Settings:
    """The settings that a config describes.

    Raises:
        InputError: If the reference cannot be read.
    """
    settings = replace(
        _asked(config, protocol),
        cache=Path(config.cache) if config.cache is not None else None,
        data=images.cache_key,
    )
    if config.reference is None:
        return settings
    reference = Path(config.reference)
    return replace(settings, reference=load_statistics(reference), reference_name=sha256(reference)[:16])


def _asked(config: Keys, protocol: Protocol) -> Settings:
    """The settings as far as they do not depend on the images."""
    return Settings(
        measures=config.measures,
        protocol=protocol,
        weights=config.weights,
        seed=config.seed,
        skip_missing=config.skip_missing,
    )


def require_metrics(config: Keys, protocol: Protocol, tokenizer: Tokenizer, side: int) -> None:
    """Refuse what cannot be had of this tokenizer, before others are measured for hours.

    Raises:
        InputError: That names the metrics and the reasons.
    """
    if not config.skip_missing:
        refuse(missing(_asked(config, protocol), tokenizer, (side, side)))


def write_and_show(report: Report, folder: Path, console: Console) -> None:
    """Write a report and its page, print it, and say where it is."""
    write_report(report, folder)
    show(report, console)
    console.print(f"  {terminal(str(folder / PAGE))}  [dim]{BESIDE}[/dim]", soft_wrap=True)
