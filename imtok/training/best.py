"""Finds, before a run starts, the number of its evaluations that chooses the best tokenizer."""

import difflib

from imtok.errors import InputError
from imtok.measures.choose import missing, numbers
from imtok.measures.settings import Settings
from imtok.tokenizer import Tokenizer


def find_best(name: str | None, asked: Settings, tokenizer: Tokenizer, side: int) -> tuple[str, bool] | None:
    """The number that ``trainer.best`` names, and whether a larger one is better; None if it names none.

    Args:
        name: As ``evaluation.csv`` will call it.
        asked: What is measured.
        tokenizer: The tokenizer that is measured.
        side: Side of the images, in pixels.

    Raises:
        InputError: If a metric cannot be measured, there will be no such number, or none of its values is better
            than another.
    """
    absent = missing(asked, tokenizer, (side, side))
    if absent:
        raise InputError(f"trainer.evaluate_metrics: {'; '.join(absent)}; leave it out")
    if name is None:
        return None
    found = numbers(asked, tokenizer, (side, side))
    choices = {known: one.higher_is_better for known, one in found.items() if one.higher_is_better is not None}
    better = choices.get(name)
    if better is None and name in found and found[name].asks:
        raise InputError(
            f"trainer.best={name}: its class does not say which way is better; give +{found[name].asks}=true or false"
        )
    if better is None:
        why = (
            "cannot choose, since neither larger nor smaller values are better"
            if name in found
            else "is not among what is measured"
        )
        close = difflib.get_close_matches(name.lower(), choices, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputError(
            f"trainer.best={name} {why}; {hint}trainer.evaluate_metrics=[{','.join(asked.sections)}] at "
            f"image_size={side} gives {', '.join(choices) or 'no number to choose by'}"
        )
    return name, better
