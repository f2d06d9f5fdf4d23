"""A folder that ``Tokenizer.load`` and the Hugging Face Hub take."""

from pathlib import Path

from imtok.card import REPORT
from imtok.export.codebook import write_codebook
from imtok.export.programs import DECODER, ENCODER, write_programs
from imtok.files import claim_output, new_folder
from imtok.locate import CONFIG
from imtok.tokenizer import Tokenizer

CODEBOOK = "codebook.safetensors"


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
    side, absent = image_size or tokenizer.image_size, dict[str, str]()
    measured = report or Path(source) if report or (Path(source) / "evaluation" / REPORT).is_file() else None
    tokenizer.generate_model_card(measured)  # before minutes of work, not after
    with new_folder(folder) as aside:
        reason = _codebook(tokenizer, aside)
        if reason is not None:
            absent[CODEBOOK] = reason
        if programs and tokenizer.quantizer.vocab_sizes:
            absent |= _programs(tokenizer, aside, side)
        tokenizer.save_pretrained(aside, model_card_kwargs={"report": measured, "license": licence, "size": side})
    return absent


def _codebook(tokenizer: Tokenizer, folder: Path) -> str | None:
    if not tokenizer.quantizer.vocab_sizes:
        return "the latents are continuous"
    return write_codebook(tokenizer.quantizer, folder / CODEBOOK)


def _programs(tokenizer: Tokenizer, folder: Path, side: int | None) -> dict[str, str]:
    if side is None:
        return dict.fromkeys((ENCODER, DECODER), "image_size is not known; give image_size=PIXELS")
    return write_programs(tokenizer, folder, (side, side))
