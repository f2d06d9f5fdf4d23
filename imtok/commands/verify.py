"""``imtok verify``: checks a store against its manifest."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from imtok.conditions.given import ConditionConfig, give
from imtok.errors import InputError
from imtok.export.verify import decode_sample, verify
from imtok.measures.spending import Spending
from imtok.plain import PLAIN, read_words
from imtok.tokenizer import Tokenizer

_Number = TypeVar("_Number", int, float)


def run(arguments: Sequence[str]) -> None:
    """Verify a folder; with a tokenizer, decode a sample of it."""
    words, console = read_words("verify", arguments), Console(highlight=False)
    folder, given = Path(words.paths[0]), words.keys
    if given and not {"tokenizer", "out"} <= given.keys():
        raise InputError(PLAIN["verify"].takes)
    console.print(verify(folder))
    if given:
        tokenizer = Tokenizer.load(given["tokenizer"])
        told = ConditionConfig(_number(given, "condition.quality", float), weights=given.get("condition.weights"))
        if told.check():
            raise InputError(told.check()[0])
        takes = {*tokenizer.encoder.takes, *tokenizer.decoder.takes}
        tokenizer.condition = give(tokenizer.condition, takes, told)
        spending = Spending.of(_number(given, "length", int), given.get("target"))
        bits = _number(given, "bits", int) or 8
        count = decode_sample(folder, tokenizer, Path(given["out"]), spending=spending, bits=bits)
        console.print(f"{count} pictures in {given['out']}", soft_wrap=True, markup=False)


def _number(given: Mapping[str, str], key: str, kind: Callable[[str], _Number]) -> _Number | None:
    """A number that was given; None where none was."""
    try:
        return kind(given[key]) if key in given else None
    except ValueError:
        raise InputError(f"{key} must be a number, got {given[key]}") from None
