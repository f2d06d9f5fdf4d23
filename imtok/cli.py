"""The ``imtok`` command: finds the command that is meant, and imports nothing that this one does not use."""

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from imtok import __version__
from imtok.completion import SCRIPT, complete
from imtok.errors import InputError
from imtok.help import help_of
from imtok.plain import PATH_OF, PLAIN
from imtok.system import keep_memory, refuse_windows
from imtok.text import plain_lines

COMPOSED = tuple(PATH_OF)  # Hydra composes the config of these
COMMANDS = (*COMPOSED, *PLAIN)

_USAGE = f"""imtok {__version__}: train, evaluate and export discrete image tokenizers

  imtok train  [PICTURES] [KEY=VALUE ...]              train (the same as python train.py)
  imtok eval   RUN [data=folder data.path=DIR] [metrics=[psnr,rfid]] [out=DIR]
  imtok compare A B [out=DIR]                          reports of imtok eval side by side, on one page
  imtok score  SAMPLES reference=NPZ                   FID, sFID, IS, precision, recall of generated images
  imtok export RUN [data=folder data.path=DIR] [out=DIR]
  imtok convert EXPORT format=llamagen out=DIR         gigatok, fqgan, rar, nanogpt, parquet, webdataset, ...
  imtok verify EXPORT [tokenizer=RUN out=DIR]          every byte against the manifest; a sample as pictures
  imtok publish RUN out=DIR                            a folder for the hub: weights, card, codebook, programs
  imtok prior  EXPORT [prior=masked] [out=DIR]         a small generator on tokens, and the bits they cost it
  imtok classify EXPORT [augmentation=seit] [out=DIR]  a classifier on tokens, and how often it is right
  imtok adapt  EXPORT [out=DIR]                        an adapter that crops and mirrors tokens, for classify
  imtok sample PRIOR tokenizer=RUN [n=64] [out=DIR]    images of a prior
  imtok probe  RUN [data=folder data.path=DIR] [out=DIR]  all of this in one command: what a generator makes of RUN
  imtok decode RUN ids=FILE_OR_EXPORT out=DIR
  imtok quantize RUN [quantizer=tokenbridge_6|gaussian_codebook|kmeans] [data=folder data.path=DIR] [out=DIR]
  imtok import source=NAME path=FILE out=DIR           a public checkpoint (docs/zoo.md)
  imtok pack   PICTURES out=DIR                        WebDataset shards of any data set (docs/data.md)
  imtok check  PATH [workers=N]                        counts, sizes, classes and every fault of a data set
  imtok info   RUN                                     vocabulary, tokens, bits, parameters

  A path may also be given by its key: imtok eval tokenizer=RUN.
  imtok COMMAND --help shows every key of a command.
  eval "$(imtok --completion)" completes commands, keys and options in bash.
"""


def main() -> None:
    """Run ``imtok COMMAND ...``."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help", "--version"):
        sys.stdout.write(_USAGE if command != "--version" else f"imtok {__version__}\n")
        return
    if command in ("--completion", "--complete"):
        asked = complete(os.environ.get("COMP_LINE", ""), COMMANDS)
        sys.stdout.write(SCRIPT if command == "--completion" else "".join(f"{word}\n" for word in asked))
        return
    refuse_windows()
    keep_memory()
    sys.argv = [f"imtok {command}", *arguments]
    if command in COMPOSED:
        run_hydra(command)
    elif command not in PLAIN:
        _refusing(lambda: _unknown(command))
    elif _asks_help(arguments):
        sys.stdout.write(PLAIN[command].help())
    else:
        module = import_module(f"imtok.commands.{'import_' if command == 'import' else command}")
        _refusing(lambda: module.run(arguments))


def run_hydra(command: str) -> None:
    """Check the command line, then let Hydra compose the config and call the command."""
    refuse_windows()
    keep_memory()
    if _asks_help(sys.argv[1:]):
        sys.stdout.write(help_of(command))
        return
    import_module("imtok.running").run(command, _refusing)


def _asks_help(arguments: Sequence[str]) -> bool:
    return "--help" in arguments or "-h" in arguments


def _unknown(command: str) -> None:
    meant = "".join(f"did you mean {name}? " for name in difflib.get_close_matches(command, COMMANDS, n=1))
    raise InputError(f"there is no command {command}; {meant}there are {', '.join(COMMANDS)}")


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
