"""A token store in the layout of a generator, with the hash of every file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imtok.errors import InputError
from imtok.export.digits import Digits, DigitStore
from imtok.export.formats.base import Format
from imtok.export.shorter import ShortStore
from imtok.export.store import TokenStore
from imtok.files import as_json, claim_output, is_sealed, new_folder, read_json, sealed, sha256, write_bytes, write_json

REPORT = "convert.json"
SUMS = "SHA256SUMS"


def convert(
    store: TokenStore, form: Format, folder: Path, digits: Digits | None = None, length: int | None = None
) -> dict[str, Any]:
    """Check a store and write it as a format; ``SHA256SUMS`` (as ``sha256sum -c`` reads it) and ``convert.json`` too.

    Args:
        store: What to write.
        form: How.
        folder: Appears whole or not at all; an earlier result in it is replaced.
        digits: How each id is split first; None = it is not.
        length: Only the first so many tokens of each image; None = all.

    Returns:
        What ``convert.json`` holds.

    Raises:
        InputError: If the store is damaged, the format does not suit it, or the folder holds something else.
    """
    claim_output(folder, REPORT)
    store.verify()
    store = store if length is None else ShortStore(store, length)
    store = store if digits is None else DigitStore(store, digits)
    form.check(store, folder)
    with new_folder(folder) as aside:
        facts = form.write(store, aside)
        files = sorted(_files(aside))
        lines = "".join(f"{sha256(aside / name)}  {name}\n" for name in files)
        write_bytes(aside / SUMS, lines.encode())
        report = {
            "format": type(form).__name__,
            "images": len(store),
            "views": store.manifest["views"],
            "classes_by_label": store.classes,
            "store_sha256": store.manifest["sha256"],
            **{name: store.manifest[name] for name in ("tokenizer_sha256", "codes_sha256") if name in store.manifest},
            **{name: store.manifest[name] for name in ("condition", "lengths") if name in store.manifest},
            **({} if length is None else {"length": length}),
            **({} if digits is None else {"digits": digits.about}),
            **facts,
            "files": len(files),
            "sums_sha256": sha256(aside / SUMS),
        }
        report = sealed(report)
        write_json(aside / REPORT, report)
    return report


def read_report(folder: Path) -> dict[str, Any]:
    """What ``convert`` says of a folder.

    Raises:
        InputError: If the folder is none that it wrote, or its report was altered.
    """
    if not (folder / REPORT).is_file():
        raise InputError(f"{folder} has no {REPORT}; give a folder that imtok convert wrote")
    report = read_json(folder / REPORT)
    if not isinstance(report, dict) or not is_sealed(report) or (folder / REPORT).read_bytes() != as_json(report):
        raise InputError(f"{folder / REPORT} was altered (its sha256 is not its own); convert again")
    return report


def verify_converted(folder: Path) -> dict[str, Any]:
    """Read every file that ``convert`` wrote again; returns its report.

    Raises:
        InputError: That names the first file that is missing, altered or not of it.
    """
    report = read_report(folder)
    if not (folder / SUMS).is_file() or sha256(folder / SUMS) != report["sums_sha256"]:
        raise InputError(f"{folder / SUMS} is missing or was altered; convert again")
    known = set()
    with (folder / SUMS).open() as lines:
        for line in lines:
            expected, name = line.rstrip("\n").split("  ", 1)
            known.add(name)
            if not (folder / name).is_file():
                raise InputError(f"{folder / name} is missing; convert again")
            if sha256(folder / name) != expected:
                raise InputError(f"{folder / name} was altered (its sha256 is not the one in {SUMS}); convert again")
    strange = set(_files(folder)) - known - {REPORT, SUMS}
    if strange:
        raise InputError(f"{folder / min(strange)} is not in {SUMS}; move it elsewhere")
    return report


def _files(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
