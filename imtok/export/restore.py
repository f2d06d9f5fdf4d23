"""The way back from the numbers of a generator's layout to the tokenizer's ids."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from imtok.errors import InputError
from imtok.export.convert import REPORT, read_report
from imtok.export.digits import Digits
from imtok.export.formats.bits import from_bits
from imtok.export.formats.counts import from_counts
from imtok.export.sequences import Sequencing
from imtok.export.store import read_array
from imtok.tokenizer import Tokenizer

Ids = tuple[Int64[np.ndarray, "b t g"], Bool[np.ndarray, "b t"] | None]
AnyIds = tuple[Int64[np.ndarray, "*b t g"], Bool[np.ndarray, "*b t"] | None]


def restored(tokenizer: Tokenizer, source: Path, layout: Path) -> Ids:
    """Ids of a generator's numbers, and which tokens are there; None = all.

    Args:
        tokenizer: Whose ids they become.
        source: An ``.npy`` file of whole numbers. Its last axis is a sequence, or the bits or slots of a token. Of a
            layout that says apart which tokens there are, ``NAME.keep.npy`` stands beside ``NAME.npy``.
        layout: A folder that ``imtok convert`` wrote, in whose numbers they are.

    Raises:
        InputError: If the layout is of another tokenizer, or a number has no place in it.
    """
    report = read_report(layout)
    if not makes_tokens_of(tokenizer, report):
        raise InputError(f"{layout} has tokens of another tokenizer; give the one that made them")
    numbers = read_array(source)
    if not np.issubdtype(numbers.dtype, np.integer):
        raise InputError(f"{source} must hold whole numbers, got {numbers.dtype}")
    try:
        ids, keep = restore(np.asarray(numbers), report)
        return ids, _keep_beside(source, ids) if report.get("variable_length") else keep
    except (KeyError, TypeError):
        raise InputError(f"{layout / REPORT} does not say how its numbers stand for ids; convert again") from None
    except ValueError as error:
        raise InputError(f"{source} has no numbers of {layout} ({error})") from None


def makes_tokens_of(tokenizer: Tokenizer, about: Mapping[str, Any]) -> bool:
    """Whether a tokenizer makes the tokens of a store or a layout: it is theirs, or one with another decoder.

    Args:
        tokenizer: The tokenizer.
        about: A store's manifest, or what ``convert.json`` holds; of earlier versions they know the whole alone.
    """
    if about["tokenizer_sha256"] == tokenizer.fingerprint():
        return True
    return "codes_sha256" in about and about["codes_sha256"] == tokenizer.codes_fingerprint()


def restore(numbers: Shaped[np.ndarray, "..."], report: dict[str, Any]) -> Ids:
    """Ids of numbers in the layout that ``convert.json`` describes.

    Args:
        numbers: As the layout has them; images may stand along several axes.
        report: What ``convert.json`` holds.

    Raises:
        KeyError: If the report is of an earlier version, which said less.
        ValueError: If a number has no place in the layout.
    """
    ids, keep = _ids(numbers, report)
    if "digits" in report:
        ids = Digits.stored(report["digits"]).join(ids)
    return ids.reshape(-1, *ids.shape[-2:]), None if keep is None else keep.reshape(-1, keep.shape[-1])


def _ids(numbers: Shaped[np.ndarray, "..."], report: dict[str, Any]) -> AnyIds:
    if "bits" in report:
        return from_bits(numbers, report["bits"]["slot_bits"])
    if "counts" in report:
        return from_counts(numbers, report["counts"]["sum"])[..., None], None
    about = report.get("sequence", report)
    if "slots" not in about:
        ids = _apart(numbers, about["tokens"], len(about["vocab_sizes"]))
        if about.get("padding") is None:
            return ids, None
        keep = (ids != np.array(about["padding"])).all(-1)
        return np.where(keep[..., None], ids, 0), keep
    sequencing = Sequencing.stored(about)
    if "vocab" in report:  # a stream, in which an image also says its class
        vocab = report["vocab"]
        sequencing = replace(sequencing, begin=vocab["begin"], end=vocab["end"])
        if numbers.shape[-1] and (numbers[..., 0] == vocab["begin"]).all():
            numbers = numbers[..., 2:]
    return sequencing.split(numbers)


def _apart(numbers: Shaped[np.ndarray, "..."], tokens: int, slots: int) -> Int64[np.ndarray, "*b t g"]:
    """Numbers of layouts that keep slots apart, in their last axis; there need be none of one slot."""
    if slots == 1 and numbers.shape[-1:] == (tokens,):
        numbers = numbers[..., None]
    if numbers.shape[-2:] != (tokens, slots):
        raise ValueError(f"the last axes must be {tokens} tokens and {slots} slots, got shape {numbers.shape}")
    return numbers.astype(np.int64)


def _keep_beside(source: Path, ids: Int64[np.ndarray, "b t g"]) -> Bool[np.ndarray, "b t"]:
    """Which tokens there are, of numbers that do not say it themselves.

    Raises:
        InputError: If nothing says it.
    """
    beside = source.with_name(f"{source.name.removesuffix('.npy')}.keep.npy")
    if not beside.is_file():
        raise InputError(f"{source} does not say which tokens an image leaves out; put {beside.name} beside it")
    keep = np.array(read_array(beside))
    if keep.dtype != np.bool_ or keep.size != ids[..., 0].size:
        raise InputError(f"{beside} must hold true or false for each token of {source.name}, got {keep.dtype}")
    return keep.reshape(ids.shape[:2])
