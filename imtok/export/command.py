"""What ``imtok export``, ``convert``, ``verify`` and ``publish`` do besides once their arguments are read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from imtok.conditions.given import ConditionConfig, give
from imtok.errors import InputError
from imtok.export.convert import convert
from imtok.export.formats.base import Format
from imtok.export.publish import publish
from imtok.export.schema import PublishConfig
from imtok.export.store import MANIFEST, TokenStore
from imtok.export.verify import decode_sample, verify
from imtok.paste import imtok_line, shell_line
from imtok.plain import PLAIN, read_words
from imtok.text import terminal
from imtok.tokenizer import Tokenizer

SHOWN = 10  # unreadable images that are named on the terminal


def show_export(manifest: Mapping[str, Any], folder: Path, tokenizer: str, console: Console) -> None:
    """Say how many images there are, which could not be read, where the ids lie, and how they become pictures."""
    count, tokens, bad = manifest["images"], manifest["tokens"], manifest["bad"]
    split = manifest["data"]["split"]
    console.print(f"{count} images of {tokens} tokens in {folder}, split={split}", soft_wrap=True, markup=False)
    if bad:
        _show_bad(bad, count, folder, console)
    axes = " x ".join(manifest["ids"]["shape"])
    console.print(f"  {folder}/ids-*.npy  {axes}, {manifest['ids']['dtype']}", soft_wrap=True, markup=False)
    console.print(f"  {folder}/shard-*.json  the names of the images, in the same order", soft_wrap=True, markup=False)
    pictures = folder.with_name(f"{folder.name}_pictures")
    following = imtok_line("decode", tokenizer=tokenizer, ids=folder, out=pictures)
    console.print(f"decode:   {following}", soft_wrap=True, markup=False)


def _show_bad(bad: Sequence[str], count: int, folder: Path, console: Console) -> None:
    console.print(f"{len(bad)} of {count + len(bad)} images could not be read and are left out:", soft_wrap=True)
    for line in bad[:SHOWN]:
        console.print(f"  {terminal(line)}", soft_wrap=True)
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
    words = read_words("verify", arguments)
    folder, given = Path(words.paths[0]), words.keys
    if given and not {"tokenizer", "out"} <= given.keys():
        raise InputError(PLAIN["verify"].takes)
    console.print(verify(folder))
    if given:
        tokenizer = Tokenizer.load(given["tokenizer"])
        told = ConditionConfig(weights=given.get("condition.weights"))
        tokenizer.condition = give(tokenizer.condition, (), told)
        count = decode_sample(folder, tokenizer, Path(given["out"]))
        console.print(f"{count} pictures in {given['out']}", soft_wrap=True, markup=False)


def run_publish(settings: PublishConfig, console: Console) -> None:
    """Write the folder for the hub, and say what is not in it."""
    report = None if settings.report is None else Path(settings.report)
    out = Path(settings.out)
    absent = publish(settings.tokenizer, out, report, settings.license, settings.image_size, programs=settings.programs)
    console.print(f"{', '.join(sorted(path.name for path in out.iterdir()))} in {out}", soft_wrap=True, markup=False)
    for name, why in absent.items():
        console.print(f"  no {name}: {why}", soft_wrap=True, markup=False)
    console.print(f"  upload: {shell_line('hf', 'upload', 'NAMESPACE/NAME', str(out))}", soft_wrap=True, markup=False)
