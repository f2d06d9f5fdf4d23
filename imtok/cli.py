"""The ``imtok`` command: train, eval, export, decode, info."""

import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import hydra
import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from imtok import __version__
from imtok.build import build_data, build_run
from imtok.config import check_command, config_folder, register_schemas
from imtok.data.loader import evaluation_loader
from imtok.distributed import launched_rank
from imtok.errors import InputError
from imtok.evaluation.evaluate import evaluate
from imtok.evaluation.report import summary, table, write_report
from imtok.export.pictures import decode_ids
from imtok.export.tokens import export_tokens
from imtok.info import describe
from imtok.tokenizer import Tokenizer, find_tokenizer
from imtok.training.run import train

_USAGE = f"""imtok {__version__}: train, evaluate and export discrete image tokenizers

  imtok train  [KEY=VALUE ...]                         train (the same as python train.py)
  imtok eval   tokenizer=RUN [data=folder data.path=DIR] [out=DIR]
  imtok export tokenizer=RUN [data=folder data.path=DIR] [out=DIR]
  imtok decode tokenizer=RUN ids=FILE_OR_EXPORT out=DIR
  imtok info   RUN                                     vocabulary, tokens, bits, parameters

  imtok COMMAND --help shows every key of a command.
"""


def main() -> None:
    """Run ``imtok COMMAND ...``."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help", "--version"):
        Console(highlight=False).print(_USAGE if command != "--version" else f"imtok {__version__}")
        return
    sys.argv = [f"imtok {command}", *arguments]
    if command in _COMMANDS:
        run_hydra(command)
    elif command == "info":
        _refusing(lambda: _info(arguments))
    else:
        _refusing(lambda: _unknown(command))


def run_hydra(command: str) -> None:
    """Check the command line, then let Hydra compose the config and call the command."""
    # Hydra's parser takes -m only before or after all overrides; between them it is as clear.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
    logging.basicConfig(level=logging.INFO, format="imtok: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    _refusing(lambda: _check(command))
    register_schemas()

    def entry(config: DictConfig) -> None:
        _refusing(lambda: _COMMANDS[command](config))

    hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=command)(entry)()


def _check(command: str) -> None:
    """Check every job that the command line asks for; leave Hydra's own questions (--help, --cfg) to Hydra."""
    arguments = get_args_parser().parse_args()
    if any((arguments.help, arguments.hydra_help, arguments.cfg, arguments.info)):
        return
    if arguments.shell_completion or arguments.config_path or arguments.config_dir or arguments.config_name:
        return
    jobs = [list(arguments.overrides)]
    if arguments.multirun:
        parsed = OverridesParser.create().parse_overrides(arguments.overrides)
        jobs = [job for batch in BasicSweeper.split_arguments(parsed, max_batch_size=None) for job in batch]
    for overrides in jobs:
        check_command(command, overrides)


def _train(config: DictConfig) -> None:
    console = Console(highlight=False)
    folder = _folder(config, config.name)
    outcome = train(build_run(config, folder))
    console.quiet = launched_rank() != 0
    if outcome.finished_before:
        console.print(f"already finished: {folder} is at step {outcome.step}, its last; nothing was changed")
        return
    if outcome.signal:
        console.print(f"stopped by signal {outcome.signal} after step {outcome.step}, all saved")
        console.print(f"go on with: ckpt=last out={folder}", soft_wrap=True)
        sys.exit(128 + outcome.signal)
    if outcome.report is None:
        console.print(f"stopped after step {outcome.step} as trainer.stop_at says; go on with: ckpt=last out={folder}")
        return
    console.print(f"[bold]{summary(outcome.report)}, held out of training[/bold]", soft_wrap=True)
    console.print(table(outcome.report))
    for name, what in _RESULTS.items():
        console.print(f"  {folder / name}  [dim]{what}[/dim]", soft_wrap=True)
    console.print(f"evaluate: python eval.py tokenizer={folder}", soft_wrap=True)
    console.print(f"export:   imtok export tokenizer={folder} out=tokens", soft_wrap=True)


_RESULTS = {
    "tokenizer/": "the tokenizer: config.json and model.safetensors (averaged weights), codebook included",
    "evaluation/": "report.md, report.json and grid.png: originals over reconstructions",
    "images/": "reconstructions during training",
    "metrics.csv": "losses, usage and speed by step",
    "checkpoints/": "to go on with: ckpt=last",
}


def _eval(config: DictConfig) -> None:
    console = Console(highlight=False)
    tokenizer, device, size = _tokenizer(config)
    folder = _folder(config, "eval")
    data = build_data(cast(dict[str, Any], OmegaConf.to_container(config, resolve=True)))
    loader = evaluation_loader(data.evaluation(size, config.split), config.batch_size, config.workers)
    report = evaluate(tokenizer, loader, device)
    write_report(report, folder)
    console.print(f"[bold]{summary(report)}[/bold]", soft_wrap=True)
    console.print(table(report))
    console.print(f"  {folder}/report.md", soft_wrap=True)


def _export(config: DictConfig) -> None:
    console = Console(highlight=False)
    tokenizer, device, size = _tokenizer(config)
    folder = _folder(config, "export")
    data = build_data(cast(dict[str, Any], OmegaConf.to_container(config, resolve=True)))
    loader = evaluation_loader(data.evaluation(size, config.split), config.batch_size, config.workers)
    manifest = export_tokens(tokenizer, loader, folder, config.shard_size, device)
    console.print(f"{manifest['images']} images of {manifest['tokens']} tokens in {folder}", soft_wrap=True)


def _decode(config: DictConfig) -> None:
    tokenizer, device, size = _tokenizer(config)
    count = decode_ids(tokenizer, Path(config.ids), Path(config.out), (size, size), config.batch_size, device)
    Console(highlight=False).print(f"{count} pictures in {config.out}", soft_wrap=True)


def _info(arguments: Sequence[str]) -> None:
    if len(arguments) != 1:
        raise InputError("imtok info takes one argument: a run folder, a tokenizer folder or a name on the hub")
    source = arguments[0].removeprefix("tokenizer=")
    Console(highlight=False).print(describe(Tokenizer.load(source), find_tokenizer(source)))


def _unknown(command: str) -> None:
    raise InputError(f"there is no command {command}; there are {', '.join([*_COMMANDS, 'info'])}")


_COMMANDS: dict[str, Callable[[DictConfig], None]] = {
    "train": _train,
    "eval": _eval,
    "export": _export,
    "decode": _decode,
}


def _tokenizer(config: DictConfig) -> tuple[Tokenizer, torch.device, int]:
    """The tokenizer that a config names, on its device, and the side of its images."""
    if config.threads:
        torch.set_num_threads(config.threads)
    name = config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device must be auto, cpu or cuda, got {name}") from None
    tokenizer = Tokenizer.load(config.tokenizer).to(device)
    size = config.image_size or tokenizer.image_size
    if size is None:
        raise InputError("image_size must be given: the tokenizer's config does not say what it was trained on")
    return tokenizer, device, size


def _folder(config: DictConfig, name: str) -> Path:
    """The output folder: as given (a number below it for each job of a sweep), or ``runs/NAME/TIME``."""
    job = HydraConfig.get().job.num if HydraConfig.get().mode is RunMode.MULTIRUN else None
    if config.out is not None:
        return Path(config.out) if job is None else Path(config.out) / str(job)
    moment = time.strftime("%Y-%m-%d_%H-%M-%S")
    return Path("runs") / name / (moment if job is None else f"{moment}_{job}")


def _refusing(action: Callable[[], None]) -> None:
    """Print what the user can mend as one message, and exit with code 2."""
    try:
        action()
    except InputError as error:
        sys.stdout.flush()
        sys.stderr.write(f"imtok: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
