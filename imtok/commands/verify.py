"""``imtok verify``: checks a store against its manifest."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from imtok.conditions.given import ConditionConfig, give
from imtok.errors import InputError
from imtok.export.verify import decode_sample, verify
from imtok.plain import PLAIN, read_words
from imtok.tokenizer import Tokenizer


def run(arguments: Sequence[str]) -> None:
    """Verify a folder; with a tokenizer, decode a sample of it."""
    words, console = read_words("verify", arguments), Console(highlight=False)
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
