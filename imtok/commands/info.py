"""``imtok info``."""

from collections.abc import Sequence

from rich.console import Console

from imtok.info import describe
from imtok.locate import find_tokenizer
from imtok.plain import read_words
from imtok.tables import print_whole
from imtok.tokenizer import Tokenizer


def run(arguments: Sequence[str]) -> None:
    """Describe a tokenizer."""
    source = read_words("info", arguments).paths[0]
    print_whole(describe(Tokenizer.load(source), find_tokenizer(source)), Console(highlight=False))
