"""A folder that ``Tokenizer.load`` and the Hugging Face Hub take."""

from pathlib import Path
from typing import Any

from imtok.errors import InputError
from imtok.export.card import card
from imtok.export.codebook import write_codebook
from imtok.export.programs import DECODER, ENCODER, write_programs
from imtok.files import claim_output, new_folder, read_json, write_bytes
from imtok.locate import CONFIG, WEIGHTS
from imtok.measures.inference import fingerprint
from imtok.measures.report.writing import REPORT
from imtok.tokenizer import Tokenizer

CODEBOOK = "codebook.safetensors"
_FILES = {
    CONFIG: "the configuration, with the hash of the weights",
    WEIGHTS: "the weights, with the configuration in its metadata",
    CODEBOOK: "a table per slot; how its rows make latents is said below",
    ENCODER: "torch.export program: images to ids",
    DECODER: "torch.export program: ids to images",
}


def publish(
    source: str | Path,
    folder: Path,
    report: Path | None = None,
    licence: str | None = None,
    image_size: int | None = None,
    programs: bool = True,
) -> dict[str, str]:
    """Write weights, configuration, codebook, programs and model card.

    Args:
        source: Run folder, tokenizer folder or ``hf:org/name[@revision]`` on the hub.
        folder: Appears whole or not at all; an earlier one in it is replaced.
        report: What ``imtok eval`` wrote, for the card; None = that of the run, if it has one.
        licence: For the card, as the hub spells it.
        image_size: Of the programs, in pixels; None = what the tokenizer was trained on.
        programs: Whether to write ``encoder.pt2`` and ``decoder.pt2``.

    Returns:
        Why a file is not there, by name.

    Raises:
        InputError: If tokenizer or report cannot be read or do not belong together, or the folder holds something
            else.
    """
    claim_output(folder, CONFIG)
    tokenizer = Tokenizer.load(source)
    measured = _report(tokenizer, source, report)
    side, absent = image_size or tokenizer.image_size, dict[str, str]()
    with new_folder(folder) as aside:
        tokenizer.save(aside / "tokenizer")
        for path in sorted((aside / "tokenizer").iterdir()):
            path.rename(aside / path.name)
        (aside / "tokenizer").rmdir()
        reason = _codebook(tokenizer, aside)
        if reason is not None:
            absent[CODEBOOK] = reason
        if programs and tokenizer.quantizer.vocab_sizes:
            absent |= _programs(tokenizer, aside, side)
        files = {name: what for name, what in _FILES.items() if (aside / name).is_file()}
        write_bytes(aside / "README.md", card(tokenizer, side, measured, licence, files).encode())
    return absent


def _codebook(tokenizer: Tokenizer, folder: Path) -> str | None:
    if not tokenizer.quantizer.vocab_sizes:
        return "the latents are continuous"
    return write_codebook(tokenizer.quantizer, folder / CODEBOOK)


def _programs(tokenizer: Tokenizer, folder: Path, side: int | None) -> dict[str, str]:
    if side is None:
        return dict.fromkeys((ENCODER, DECODER), "image_size is not known; give image_size=PIXELS")
    return write_programs(tokenizer, folder, (side, side))


def _report(tokenizer: Tokenizer, source: str | Path, given: Path | None) -> dict[str, Any] | None:
    """The report for the card, if it can be of this tokenizer."""
    path = given or Path(source) / "evaluation"
    path = path / REPORT if path.is_dir() else path
    if given is None and not path.is_file():
        return None
    report = read_json(path)
    if (
        not isinstance(report, dict)
        or not {"metrics", "conventions", "images", "image_size", "vocab_sizes"} <= report.keys()
    ):
        raise InputError(f"{path} is not a report of imtok eval; give report=DIR")
    if report["vocab_sizes"] != list(tokenizer.quantizer.vocab_sizes):
        raise InputError(f"{path} is the report of another tokenizer (its slots have {report['vocab_sizes']} ids)")
    if report.get("tokenizer_sha256") not in (None, "", fingerprint(tokenizer)):
        raise InputError(
            f"{path} was measured with other weights (another step or run, or weights=raw); evaluate {source} again, "
            "and give report=DIR"
        )
    return report
