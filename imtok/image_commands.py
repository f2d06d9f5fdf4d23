"""``imtok eval``, ``export`` and ``quantize``: images through a tokenizer, once the config is checked."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Column, Table

from imtok.build import build_data, build_protocol
from imtok.conditions.given import ConditionConfig, DecodeConditionConfig, give
from imtok.config import EvalConfig
from imtok.data.base import Images
from imtok.data.images import ImageSet
from imtok.data.loader import evaluation_loader
from imtok.data.remarks import say_remarks
from imtok.data.told import require_told, told
from imtok.distributed import launched_gpu
from imtok.errors import InputError
from imtok.export.command import show_export
from imtok.export.feed import make_feed
from imtok.export.quantize import fit_and_save, spread, with_ids
from imtok.export.tokens import export_tokens
from imtok.export.views import Views
from imtok.files import claim_output
from imtok.measures.command import (
    claim_side_by_side,
    make_settings,
    prepare,
    require_metrics,
    side_by_side,
    unique_names,
    watched,
    write_and_show,
)
from imtok.measures.evaluate import evaluate
from imtok.measures.pictures import choose_shown
from imtok.measures.report.origin import Origin
from imtok.measures.report.writing import REPORT, Report
from imtok.paste import imtok_line
from imtok.run_data import data_words, take_data
from imtok.tokenizer import Tokenizer
from imtok.training.folder import find_checkpoint


def run_eval(config: DictConfig, folder: Path, command: str, console: Console) -> None:
    """Measure one tokenizer or several on the same images, and write a report of each.

    Args:
        config: Of ``imtok eval``.
        folder: Where the reports go; of several tokenizers each to a folder in it.
        command: What makes them again.
        console: Where they are shown.

    Raises:
        InputError: If tokenizers, images, metrics or the folder cannot be used.
    """
    typed = cast(EvalConfig, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(EvalConfig), config)))
    sources = [typed.tokenizer] if isinstance(typed.tokenizer, str) else [str(source) for source in typed.tokenizer]
    # What is asked for, and where it goes.
    names = unique_names(sources)
    if len(sources) > 1:
        claim_side_by_side(folder)
    places = [folder / name if len(sources) > 1 else folder for name in names]
    for into in places:  # before hours of measuring, not after
        claim_output(into, REPORT)
    protocol = build_protocol(plain_values(config))
    # On which images.
    console.print(take_data(config, sources, split="val"), soft_wrap=True, markup=False)
    plain = plain_values(config)
    data = build_data(plain)
    # What cannot be had of the last tokenizer is refused before the first is measured.
    for source in sources if len(sources) > 1 else ():
        other, _, size = load_tokenizer(config, source)
        require_metrics(typed, protocol, other, size)
    # One tokenizer after another.
    reports = list[Report]()
    for source, name, into in zip(sources, names, places, strict=True):
        tokenizer, device, size = load_tokenizer(config, source)
        if typed.weights == "raw":
            _take_raw(tokenizer, source)
        images = _told(data.evaluation(size, config.split), tokenizer, typed.condition)
        say_remarks(images.remarks if not reports else ())
        origin = Origin(plain["data"], config.split or data.default_split, source, command)
        images = prepare(images, protocol, typed.n)
        settings = make_settings(typed, protocol, images)
        settings = replace(settings, untold=typed.condition.missing, condition=typed.condition.facts)
        loader = evaluation_loader(images, config.batch_size, config.workers)
        batches = watched(loader, len(images) if isinstance(images, ImageSet) else None, name)
        measured = evaluate(tokenizer, batches, device, choose_shown(images).key, settings)
        report = replace(measured, name=name, origin=origin)
        write_and_show(report, into, console)
        reports.append(report)
    if len(reports) > 1:
        side_by_side(reports, folder, console)


def _told(images: Images, tokenizer: Tokenizer, given: ConditionConfig) -> Images:
    """Images with what the tokenizer's condition reads; refused if none of a list has it, unless that is allowed."""
    images = told(images, tokenizer.condition)
    if not given.missing:
        require_told(images, tokenizer.condition, "images")
    return images


def _take_raw(tokenizer: Tokenizer, source: str) -> None:
    """Put the weights of the run's last checkpoint in, as they are, without averaging."""
    found = find_checkpoint(Path(source), "last")
    if found is None:
        raise InputError(f"weights=raw needs a run folder with checkpoints, and {source} has none; give weights=ema")
    prefix = "tokenizer."
    weights = {k.removeprefix(prefix): value for k, value in found.model.items() if k.startswith(prefix)}
    tokenizer.load_state_dict(weights)


def run_export(config: DictConfig, folder: Path, console: Console) -> None:
    """Write the tokens of images, and say how many there are.

    Args:
        config: Of ``imtok export``.
        folder: Of the store.
        console: Where it is said.

    Raises:
        InputError: If tokenizer, images or the folder cannot be used.
    """
    tokenizer, device, size = load_tokenizer(config)
    console.print(take_data(config, [config.tokenizer]), soft_wrap=True, markup=False)
    plain = plain_values(config)
    data = build_data(plain)
    views = Views(config.augment)
    images = data.evaluation(views.square(size), config.split)
    say_remarks(images.remarks)
    feed = make_feed(images, config.shard_size, max(1, config.batch_size // len(views)), config.workers)
    about = Origin(plain["data"], config.split or data.default_split).about_data() | {"image_size": images.image_size}
    manifest = export_tokens(tokenizer, feed, folder, views, device, about, given_condition(config))
    show_export(manifest, folder, config.tokenizer, console)


def run_quantize(config: DictConfig, folder: Path, console: Console) -> None:
    """Give a continuous tokenizer ids, and say what that costs.

    Args:
        config: Of ``imtok quantize``.
        folder: Of the tokenizer that has them.
        console: Where it is said.

    Raises:
        InputError: If tokenizer, quantizer, images or the folder cannot be used.
    """
    tokenizer, device, size = load_tokenizer(config)
    console.print(take_data(config, [config.tokenizer], split="val"), soft_wrap=True, markup=False)
    plain = plain_values(config)
    quantized = with_ids(tokenizer, plain["quantizer"])
    data = build_data(plain)
    given = given_condition(config)
    trained, held_out = (_told(data.evaluation(size, split), tokenizer, given) for split in ("train", config.split))
    both = (spread(trained, config.images), held_out)
    say_remarks(remark for images in both for remark in images.remarks)
    fitting, measuring = (evaluation_loader(images, config.batch_size, config.workers) for images in both)
    report = fit_and_save(tokenizer, quantized, fitting, measuring, folder, config.images, device, given.missing)
    # What came of it, and what to do next.
    rows = Table("latents", Column("PSNR (dB)", justify="right"))
    for name, value in report["psnr"].items():
        rows.add_row(name, f"{value:.2f}")
    bits = f"{quantized.quantizer.bits_per_token:g} bits per token, fitted to the latents of"
    title = f"{report['images_measured']} images of {size}x{size} pixels, {bits} {report['images_fitted']}"
    console.print(f"[bold]{title}[/bold]", soft_wrap=True)
    console.print(rows)
    console.print(f"  {folder / 'tokenizer'}", soft_wrap=True, markup=False)
    words = data_words(plain["data"])
    if words is not None:
        following = imtok_line("export", *words, tokenizer=folder, split="train", out=folder / "tokens")
        console.print(f"export:   {following}", soft_wrap=True, markup=False)


def plain_values(config: DictConfig) -> dict[str, Any]:
    """The config as plain values, with nothing left to resolve."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def find_device(config: DictConfig) -> torch.device:
    """Where to compute, as the config says; sets the number of threads too."""
    if config.threads:
        torch.set_num_threads(config.threads)
    name = config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device must be auto, cpu or cuda, got {name}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device={name} needs a GPU, and torch {torch.__version__} finds none; give device=cpu")
    # processes of one launcher each take their own
    return torch.device("cuda", launched_gpu()) if device.type == "cuda" and device.index is None else device


def given_condition(config: DictConfig) -> DecodeConditionConfig:
    """What a command says of the tokenizer's condition."""
    return DecodeConditionConfig(**plain_values(config.condition)) if "condition" in config else DecodeConditionConfig()


def load_tokenizer(config: DictConfig, source: str | None = None) -> tuple[Tokenizer, torch.device, int]:
    """The tokenizer that a config (or ``source``) names, on its device, and the side of its images."""
    device = find_device(config)
    tokenizer = Tokenizer.load(source or config.tokenizer).to(device)
    given = given_condition(config)
    tokenizer.condition = give(tokenizer.condition, {*tokenizer.encoder.takes, *tokenizer.decoder.takes}, given)
    size = config.image_size or tokenizer.image_size
    if size is None:
        raise InputError("image_size must be given: the tokenizer's config does not say what it was trained on")
    return tokenizer, device, size
