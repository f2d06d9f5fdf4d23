"""What ``imtok convert``, ``imtok verify`` and ``imtok publish`` do once their arguments are read."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from imtok.errors import InputError
from imtok.export.convert import convert
from imtok.export.formats.base import Format
from imtok.export.publish import publish
from imtok.export.schema import PublishConfig
from imtok.export.store import TokenStore
from imtok.export.verify import decode_sample, verify
from imtok.tokenizer import Tokenizer


def run_convert(store: Path, form: Format, out: Path, console: Console) -> None:
    """Convert, and show what the consumer must be told."""
    report = convert(TokenStore(store), form, out)
    console.print(f"{report['images']} images, {report['files']} files in {out}", soft_wrap=True, markup=False)
    for note in report.get("notes", ()):
        console.print(f"  {note}", soft_wrap=True, markup=False)


def run_verify(arguments: Sequence[str], console: Console) -> None:
    """Verify a folder; with a tokenizer, decode a sample of it."""
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    folders = [argument for argument in arguments if "=" not in argument]
    if len(folders) != 1 or not given.keys() <= {"tokenizer", "out"} or ("out" in given) != ("tokenizer" in given):
        raise InputError("imtok verify takes a folder, and to decode a sample of it tokenizer=RUN out=DIR")
    console.print(verify(Path(folders[0])))
    if given:
        count = decode_sample(Path(folders[0]), Tokenizer.load(given["tokenizer"]), Path(given["out"]))
        console.print(f"{count} pictures in {given['out']}", soft_wrap=True, markup=False)


def run_publish(settings: PublishConfig, console: Console) -> None:
    """Write the folder for the hub, and say what is not in it."""
    report = None if settings.report is None else Path(settings.report)
    out = Path(settings.out)
    absent = publish(settings.tokenizer, out, report, settings.license, settings.image_size, programs=settings.programs)
    console.print(f"{', '.join(sorted(path.name for path in out.iterdir()))} in {out}", soft_wrap=True, markup=False)
    for name, why in absent.items():
        console.print(f"  no {name}: {why}", soft_wrap=True, markup=False)
    console.print(f"  upload: hf upload NAMESPACE/NAME {out}", soft_wrap=True, markup=False)
