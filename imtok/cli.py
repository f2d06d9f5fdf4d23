"""The ``imtok`` command: pack, check, train, eval, compare, score, export, convert, verify, publish, decode, ..."""

import difflib
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from imtok import __version__
from imtok.build import build_data, build_part, build_run
from imtok.command_line import check_arguments, go_on, settled
from imtok.config import EvalConfig, config_folder, register_schemas
from imtok.data.command import run_check, run_pack
from imtok.data.images import ImageSet
from imtok.data.loader import evaluation_loader
from imtok.data.remarks import say_remarks
from imtok.data.schema import PackConfig
from imtok.distributed import launched_gpu, launched_rank
from imtok.errors import InputError
from imtok.evaluation.command import (
    SCORE,
    claim_side_by_side,
    compare_folders,
    make_settings,
    prepare,
    require_metrics,
    run_score,
    show_comparison,
    side_by_side,
    unique_names,
    watched,
    write_and_show,
)
from imtok.evaluation.evaluate import evaluate
from imtok.evaluation.origin import Origin
from imtok.evaluation.protocol import Protocol
from imtok.evaluation.report import REPORT, Report, show
from imtok.evaluation.schema import ScoreConfig
from imtok.export.command import run_convert, run_publish, run_verify, show_export
from imtok.export.feed import make_feed
from imtok.export.formats.base import Format
from imtok.export.pictures import decode_ids
from imtok.export.quantize import fit_and_save, spread, with_ids
from imtok.export.schema import PublishConfig
from imtok.export.tokens import export_tokens
from imtok.export.views import Views
from imtok.files import claim_inside, claim_output
from imtok.info import describe
from imtok.locate import find_tokenizer
from imtok.overrides import as_typed
from imtok.paste import imtok_line, shell_line
from imtok.plain import PLAIN, read_words
from imtok.run_data import data_words, take_data
from imtok.text import log_to_terminal, plain_lines
from imtok.tokenizer import Tokenizer
from imtok.training.folder import find_checkpoint
from imtok.training.run import train
from imtok.zoo.command import run_import

_USAGE = f"""imtok {__version__}: train, evaluate and export discrete image tokenizers

  imtok train  [KEY=VALUE ...]                         train (the same as python train.py)
  imtok eval   tokenizer=RUN [data=folder data.path=DIR] [metrics=[psnr,rfid]] [out=DIR]
  imtok compare A B                                    reports of imtok eval, where they are comparable
  imtok score  images=DIR_OR_NPZ reference=NPZ         FID, sFID, IS, precision, recall of generated images
  imtok export tokenizer=RUN [data=folder data.path=DIR] [out=DIR]
  imtok convert store=EXPORT format=llamagen out=DIR   gigatok, fqgan, rar, nanogpt, parquet, webdataset, huggingface
  imtok verify EXPORT [tokenizer=RUN out=DIR]          every byte against the manifest; a sample as pictures
  imtok publish tokenizer=RUN out=DIR                  a folder for the hub: weights, card, codebook, programs
  imtok decode tokenizer=RUN ids=FILE_OR_EXPORT out=DIR
  imtok quantize tokenizer=RUN [quantizer=tokenbridge_6] [data=folder data.path=DIR] [out=DIR]
  imtok import source=NAME path=FILE out=DIR           a public checkpoint (docs/zoo.md)
  imtok pack   data=folder data.path=DIR out=DIR       WebDataset shards of any data set (docs/data.md)
  imtok check  PATH [--workers N]                      counts, sizes, classes and every fault of a data set
  imtok info   RUN                                     vocabulary, tokens, bits, parameters

  imtok COMMAND --help shows every key of a command.
"""


def main() -> None:
    """Run ``imtok COMMAND ...``."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help", "--version"):
        sys.stdout.write(_USAGE if command != "--version" else f"imtok {__version__}\n")
        return
    sys.argv = [f"imtok {command}", *arguments]
    if command in _COMMANDS:
        run_hydra(command)
    elif command not in PLAIN:
        _refusing(lambda: _unknown(command))
    elif "--help" in arguments or "-h" in arguments:
        sys.stdout.write(PLAIN[command].help())
    else:
        _refusing(lambda: _PLAIN[command](arguments))


def run_hydra(command: str) -> None:
    """Check the command line, then let Hydra compose the config and call the command."""
    # Hydra's parser takes -m only before or after all overrides; between them it is as clear.
    ordered = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
    sys.argv[1:] = as_typed(ordered, lists=["tokenizer"] if command == "eval" else [])
    log_to_terminal()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # a class that cannot be imported is refused by name
    _refusing(lambda: check_arguments(command))
    register_schemas()

    def entry(config: DictConfig) -> None:
        _refusing(lambda: _COMMANDS[command](settled(config)))

    hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=command)(entry)()


def _train(config: DictConfig) -> None:
    console = Console(highlight=False)
    folder = _folder(config, config.name)
    again = imtok_line("eval", tokenizer=folder, split="val")
    run = replace(build_run(config, folder), measured_by=again)
    outcome, shown = train(run), escape(str(folder))
    console.quiet = launched_rank() != 0
    if outcome.finished_before:
        console.print(f"already finished: {shown} is at step {outcome.step}, its last; nothing was changed")
        return
    if outcome.signal:
        console.print(f"stopped by signal {outcome.signal} after step {outcome.step}, all saved")
        console.print(f"go on with: {go_on(folder)}", soft_wrap=True, markup=False)
        sys.exit(128 + outcome.signal)
    if outcome.report is None:
        console.print(f"stopped after step {outcome.step} as trainer.stop_at says")
        console.print(f"go on with: {go_on(folder)}", soft_wrap=True, markup=False)
        return
    measured = "held out of training" if run.data.measures_apart else "of which some were trained on"
    show(outcome.report, console, f", {measured}")
    for name, what in _RESULTS.items():
        if (folder / name).exists():
            console.print(f"  {escape(str(folder / name))}  [dim]{what}[/dim]", soft_wrap=True)
    console.print(f"evaluate: {again}", soft_wrap=True, markup=False)
    quantizer = run.tokenizer.quantizer
    if quantizer.vocab_sizes:
        following = imtok_line("export", tokenizer=folder, split="train", out=folder / "tokens")
        console.print(f"export:   {following}", soft_wrap=True, markup=False)
    else:
        following = imtok_line(
            "quantize", tokenizer=folder, **{"quantizer.dim": quantizer.dim}, out=folder / "quantized"
        )
        console.print(f"give ids: {following}", soft_wrap=True, markup=False)


_RESULTS = {
    "tokenizer": "the tokenizer: config.json and model.safetensors (averaged weights), codebook included",
    "best": "the best tokenizer by trainer.best",
    "evaluation": "report.md, report.json and grid.png: originals over reconstructions",
    "images": "reconstructions during training",
    "metrics.csv": "losses, usage and speed by step",
    "checkpoints": "to go on with: ckpt=last and the same settings",
}


def _eval(config: DictConfig) -> None:
    console = Console(highlight=False)
    typed = cast(EvalConfig, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(EvalConfig), config)))
    sources = [typed.tokenizer] if isinstance(typed.tokenizer, str) else [str(source) for source in typed.tokenizer]
    names, folder = unique_names(sources), _folder(config, "eval")
    if len(sources) > 1:
        claim_side_by_side(folder)
    places = [folder / name if len(sources) > 1 else folder for name in names]
    for into in places:  # before hours of measuring, not after
        claim_output(into, REPORT)
    protocol = cast(Protocol, build_part(_plain(config), "protocol"))
    console.print(take_data(config, sources, split="val"), soft_wrap=True, markup=False)
    plain = _plain(config)
    data = build_data(plain)
    for source in sources if len(sources) > 1 else ():
        other, _, size = _tokenizer(config, source)
        require_metrics(typed, protocol, other, size)
    reports = list[Report]()
    for source, name, into in zip(sources, names, places, strict=True):
        tokenizer, device, size = _tokenizer(config, source)
        if typed.weights == "raw":
            _take_raw(tokenizer, source)
        images = data.evaluation(size, config.split)
        say_remarks(images.remarks if not reports else ())
        origin = Origin(plain["data"], config.split or data.default_split, source, _command("eval"))
        images = prepare(images, protocol, typed.n)
        settings = make_settings(typed, protocol, images)
        loader = evaluation_loader(images, config.batch_size, config.workers)
        batches = watched(loader, len(images) if isinstance(images, ImageSet) else None, name)
        report = replace(evaluate(tokenizer, batches, device, settings=settings), name=name, origin=origin)
        write_and_show(report, into, console)
        reports.append(report)
    if len(reports) > 1:
        show_comparison(side_by_side(reports, folder), console)


def _take_raw(tokenizer: Tokenizer, source: str) -> None:
    """Put the weights of the run's last checkpoint in, as they are, without averaging."""
    found = find_checkpoint(Path(source), "last")
    if found is None:
        raise InputError(f"weights=raw needs a run folder with checkpoints, and {source} has none; give weights=ema")
    prefix = "tokenizer."
    weights = {k.removeprefix(prefix): value for k, value in found.model.items() if k.startswith(prefix)}
    tokenizer.load_state_dict(weights)


def _compare(arguments: Sequence[str]) -> None:
    show_comparison(compare_folders(arguments), Console(highlight=False))


def _score(config: DictConfig) -> None:
    plain = _plain(config)
    protocol, folder = cast(Protocol, build_part(plain, "protocol")), _folder(config, "score")
    claim_inside(folder, SCORE)
    typed = cast(ScoreConfig, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ScoreConfig), config)))
    run_score(typed, protocol, folder, _device(config), _command("score"))


def _export(config: DictConfig) -> None:
    console = Console(highlight=False, quiet=launched_rank() != 0)
    tokenizer, device, size = _tokenizer(config)
    folder = _folder(config, "export")
    console.print(take_data(config, [config.tokenizer]), soft_wrap=True, markup=False)
    plain = _plain(config)
    data = build_data(plain)
    views = Views(config.augment)
    images = data.evaluation(views.square(size), config.split)
    say_remarks(images.remarks)
    feed = make_feed(images, config.shard_size, max(1, config.batch_size // len(views)), config.workers)
    about = Origin(plain["data"], config.split or data.default_split).about_data() | {"image_size": images.image_size}
    show_export(export_tokens(tokenizer, feed, folder, views, device, about), folder, console)


def _convert(config: DictConfig) -> None:
    plain = _plain(config)
    form = cast(Format, build_part(plain, "format"))
    run_convert(Path(config.store), form, Path(config.out), Console(highlight=False))


def _publish(config: DictConfig) -> None:
    settings = cast(PublishConfig, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(PublishConfig), config)))
    run_publish(settings, Console(highlight=False))


def _quantize(config: DictConfig) -> None:
    console = Console(highlight=False)
    tokenizer, device, size = _tokenizer(config)
    folder = _folder(config, "quantize")
    console.print(take_data(config, [config.tokenizer], split="val"), soft_wrap=True, markup=False)
    plain = _plain(config)
    quantized = with_ids(tokenizer, plain["quantizer"])
    data = build_data(plain)
    both = (spread(data.evaluation(size, "train"), config.images), data.evaluation(size, config.split))
    say_remarks(remark for images in both for remark in images.remarks)
    fitting, measuring = (evaluation_loader(images, config.batch_size, config.workers) for images in both)
    report = fit_and_save(tokenizer, quantized, fitting, measuring, folder, config.images, device)
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


def _decode(config: DictConfig) -> None:
    tokenizer, device, size = _tokenizer(config)
    count = decode_ids(tokenizer, Path(config.ids), Path(config.out), (size, size), config.batch_size, device)
    Console(highlight=False).print(f"{count} pictures in {config.out}", soft_wrap=True, markup=False)


def _pack(config: DictConfig) -> None:
    plain = _plain(config)
    run_pack(PackConfig(**{name: plain[name] for name in vars(PackConfig())}), build_data(plain))


def _info(arguments: Sequence[str]) -> None:
    source = read_words("info", arguments).paths[0]
    Console(highlight=False).print(describe(Tokenizer.load(source), find_tokenizer(source)))


def _import(arguments: Sequence[str]) -> None:
    console = Console(highlight=False)
    imported, folder = run_import(arguments, compose_training)
    console.print(imported.describe(str(folder)))
    console.print(f"evaluate: {imtok_line('eval', tokenizer=folder)}", soft_wrap=True, markup=False)


def compose_training(overrides: Sequence[str]) -> dict[str, Any]:
    """The training config of a recipe, as plain values; what only a run must say ("???") may be open."""
    register_schemas()
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        return cast(dict[str, Any], OmegaConf.to_container(hydra.compose("train", list(overrides)), resolve=True))


def _unknown(command: str) -> None:
    commands = ", ".join([*_COMMANDS, *_PLAIN])
    close = difflib.get_close_matches(command, [*_COMMANDS, *_PLAIN], n=1)
    raise InputError(f"there is no command {command}; {f'did you mean {close[0]}? ' * len(close)}there are {commands}")


_COMMANDS: dict[str, Callable[[DictConfig], None]] = {
    "train": _train,
    "eval": _eval,
    "export": _export,
    "convert": _convert,
    "publish": _publish,
    "quantize": _quantize,
    "decode": _decode,
    "score": _score,
    "pack": _pack,
}


_PLAIN: dict[str, Callable[[Sequence[str]], None]] = {
    "check": lambda arguments: sys.exit(run_check(arguments)),
    "compare": _compare,
    "import": _import,
    "info": _info,
    "verify": lambda arguments: run_verify(arguments, Console(highlight=False)),
}


def _plain(config: DictConfig) -> dict[str, Any]:
    """The config as plain values, with nothing left to resolve."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def _device(config: DictConfig) -> torch.device:
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


def _tokenizer(config: DictConfig, source: str | None = None) -> tuple[Tokenizer, torch.device, int]:
    """The tokenizer that a config (or ``source``) names, on its device, and the side of its images."""
    device = _device(config)
    tokenizer = Tokenizer.load(source or config.tokenizer).to(device)
    size = config.image_size or tokenizer.image_size
    if size is None:
        raise InputError("image_size must be given: the tokenizer's config does not say what it was trained on")
    return tokenizer, device, size


def _folder(config: DictConfig, name: str) -> Path:
    """The output folder: as given, or ``runs/NAME/TIME``, with the number of each job of a sweep."""
    if config.out is not None:
        return Path(config.out)
    job = HydraConfig.get().job.num if HydraConfig.get().mode is RunMode.MULTIRUN else None
    moment = time.strftime("%Y-%m-%d_%H-%M-%S")
    return Path("runs") / name / (moment if job is None else f"{moment}_{job}")


def _command(name: str) -> str:
    """The command line of this job, as it can be pasted into a shell."""
    if HydraConfig.get().mode is not RunMode.MULTIRUN:
        return shell_line("imtok", name, *sys.argv[1:])
    overrides = HydraConfig.get().overrides
    searched = [one for one in overrides.hydra if one.lstrip("+").startswith("hydra.searchpath=")]
    return shell_line("imtok", name, *searched, *overrides.task)


def _refusing(action: Callable[[], None]) -> None:
    """Print what the user can mend as one message, and exit with code 2."""
    try:
        action()
    except InputError as error:
        sys.stdout.flush()
        sys.stderr.write(plain_lines(f"imtok: {error}") + "\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
