"""What ``imtok export``, ``convert``, ``verify`` and ``publish`` do besides once their arguments are read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from imtok.data.base import Images
from imtok.data.transforms import CentreCrop
from imtok.errors import InputError
from imtok.export.convert import convert
from imtok.export.formats.base import Format
from imtok.export.publish import publish
from imtok.export.schema import PublishConfig
from imtok.export.store import MANIFEST, TokenStore
from imtok.export.verify import decode_sample, verify
from imtok.tokenizer import Tokenizer

SHOWN = 10  # unreadable images that are named on the terminal


def describe_data(config: Mapping[str, Any], split: str | None, images: Images) -> dict[str, Any]:
    """Which images an export is of: what the config says, and how they were cut.

    Args:
        config: The config of the data, as plain values; paths stay as they were typed.
        split: As it was given; None = the data's own choice.
        images: The images.
    """
    parts = config.get("parts")
    return {
        "kind": config.get("_target_"),
        **{name: config[name] for name in ("path", "val_path") if config.get(name) is not None},
        **({} if parts is None else {"parts": {name: _place(part) for name, part in parts.items()}}),
        "split": split or "the data's own choice",
        "image_size": images.image_size,
        "crop": "centre (ADM's)" if isinstance(images.transform, CentreCrop) else type(images.transform).__name__,
    }


def _place(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": config.get("_target_"), "path": config.get("path")}


def show_export(manifest: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Say how many images there are, and which could not be read."""
    count, tokens, bad = manifest["images"], manifest["tokens"], manifest["bad"]
    console.print(f"{count} images of {tokens} tokens in {folder}", soft_wrap=True, markup=False)
    if not bad:
        return
    console.print(f"{len(bad)} of {count + len(bad)} images could not be read and are left out:", soft_wrap=True)
    for line in bad[:SHOWN]:
        console.print(f"  {line}", soft_wrap=True, markup=False)
    if len(bad) > SHOWN:
        console.print(f"  and {len(bad) - SHOWN} more, all in {folder / MANIFEST}", soft_wrap=True, markup=False)


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
