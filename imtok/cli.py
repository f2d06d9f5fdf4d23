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
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from imtok import __version__
from imtok.build import build_data, build_part, build_protocol, build_run
from imtok.command_line import check_arguments, go_on, settled
from imtok.config import config_folder, register_schemas
from imtok.data.command import run_check, run_pack
from imtok.data.schema import PackConfig
from imtok.distributed import launched_rank
from imtok.errors import InputError
from imtok.export.command import run_convert, run_publish, run_verify
from imtok.export.formats.base import Format
from imtok.export.pictures import decode_ids
from imtok.export.schema import PublishConfig
from imtok.files import claim_inside
from imtok.image_commands import (
    find_device,
    given_condition,
    load_tokenizer,
    plain_values,
    run_eval,
    run_export,
    run_quantize,
)
from imtok.info import describe
from imtok.locate import find_tokenizer
from imtok.measures.command import (
    SCORE,
    run_compare,
    run_score,
)
from imtok.measures.report.writing import BESIDE, PAGE, show
from imtok.measures.schema import ScoreConfig
from imtok.overrides import as_typed, in_full
from imtok.paste import imtok_line, shell_line
from imtok.plain import PLAIN, read_words
from imtok.system import refuse_windows
from imtok.text import log_to_terminal, plain_lines, terminal
from imtok.tokenizer import Tokenizer
from imtok.training.run import train
from imtok.zoo.command import run_import

_USAGE = f"""imtok {__version__}: train, evaluate and export discrete image tokenizers

  imtok train  [KEY=VALUE ...]                         train (the same as python train.py)
  imtok eval   tokenizer=RUN [data=folder data.path=DIR] [metrics=[psnr,rfid]] [out=DIR]
  imtok compare A B [out=DIR]                          reports of imtok eval side by side, on one page
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
    refuse_windows()
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
    refuse_windows()
    # Hydra's parser takes -m only before or after all overrides; between them it is as clear.
    ordered = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
    sys.argv[1:] = as_typed(in_full(command, ordered), lists=["tokenizer"] if command == "eval" else [])
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
        why = "trainer.lightning" if run.trainer.lightning and run.trainer.stop_at is None else "trainer.stop_at"
        console.print(f"stopped after step {outcome.step} as {why} says")
        console.print(f"go on with: {go_on(folder)}", soft_wrap=True, markup=False)
        return
    measured = "held out of training" if run.data.measures_apart else "of which some were trained on"
    show(outcome.report, console, f", {measured}")
    if run.note:
        console.print(terminal(run.note), soft_wrap=True)
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
    f"evaluation/{PAGE}": BESIDE,
    "tokenizer": "the tokenizer: config.json and model.safetensors (averaged weights), codebook included",
    "best": "the best tokenizer by trainer.best",
    "images": "reconstructions during training",
    "metrics.csv": "losses, usage and speed by step",
    "checkpoints": "to go on with: ckpt=last and the same settings",
}


def _compare(arguments: Sequence[str]) -> None:
    run_compare(arguments, Path("runs/compare") / time.strftime(_MOMENT), Console(highlight=False))


def _eval(config: DictConfig) -> None:
    run_eval(config, _folder(config, "eval"), _command("eval"), Console(highlight=False))


def _export(config: DictConfig) -> None:
    run_export(config, _folder(config, "export"), Console(highlight=False, quiet=launched_rank() != 0))


def _quantize(config: DictConfig) -> None:
    run_quantize(config, _folder(config, "quantize"), Console(highlight=False))


def _score(config: DictConfig) -> None:
    plain = plain_values(config)
    protocol, folder = build_protocol(plain), _folder(config, "score")
    claim_inside(folder, SCORE)
    typed = cast(ScoreConfig, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ScoreConfig), config)))
    run_score(typed, protocol, folder, find_device(config), _command("score"))


def _convert(config: DictConfig) -> None:
    plain = plain_values(config)
    form = cast(Format, build_part(plain, "format"))
    run_convert(Path(config.store), form, Path(config.out), Console(highlight=False))


def _publish(config: DictConfig) -> None:
    settings = cast(PublishConfig, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(PublishConfig), config)))
    run_publish(settings, Console(highlight=False))


def _decode(config: DictConfig) -> None:
    tokenizer, device, size = load_tokenizer(config)
    told = given_condition(config)
    count = decode_ids(tokenizer, Path(config.ids), Path(config.out), (size, size), config.batch_size, device, told)
    named = "000000.png" + f" to {count - 1:06d}.png" * (count > 1)
    line = f"{count} pictures in {config.out}: {named}, in the order of {config.ids}"
    Console(highlight=False).print(line, soft_wrap=True, markup=False)


def _pack(config: DictConfig) -> None:
    plain = plain_values(config)
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
    meant = "".join(f"did you mean {name}? " for name in difflib.get_close_matches(command, [*_COMMANDS, *_PLAIN], n=1))
    raise InputError(f"there is no command {command}; {meant}there are {commands}")


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


_MOMENT = "%Y-%m-%d_%H-%M-%S"  # the name of a folder that nobody named

_PLAIN: dict[str, Callable[[Sequence[str]], None]] = {
    "check": lambda arguments: sys.exit(run_check(arguments)),
    "compare": _compare,
    "import": _import,
    "info": _info,
    "verify": lambda arguments: run_verify(arguments, Console(highlight=False)),
}


def _folder(config: DictConfig, name: str) -> Path:
    """The output folder: as given, or ``runs/NAME/TIME``, with the number of each job of a sweep."""
    if config.out is not None:
        return Path(config.out)
    job = HydraConfig.get().job.num if HydraConfig.get().mode is RunMode.MULTIRUN else None
    moment = time.strftime(_MOMENT)
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
