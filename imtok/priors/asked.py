"""What samples are of, and what of it prior and tokenizer each read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from imtok.conditions.base import Conditioner
from imtok.conditions.given import DecodeConditionConfig, give, read_captions
from imtok.conditions.named import NamedText
from imtok.conditions.text import TextTower
from imtok.errors import InputError
from imtok.priors.generator import Generator
from imtok.tokenizer import Tokenizer


@dataclass(frozen=True)
class Asked:
    """What samples are of.

    Attributes:
        labels: Class of each; () = of none.
        captions: Text for each; () = none.
    """

    labels: Sequence[int] = ()
    captions: Sequence[str] = ()


def asked_of(generator: Generator, tokenizer: Tokenizer, count: int, given: DecodeConditionConfig) -> Asked:
    """What so many samples are of: the label or the captions that are given, or all classes in turn.

    Raises:
        InputError: If prior or tokenizer are told captions or labels and there are none, or nothing reads what is
            given.
    """
    own, others = generator.condition, tokenizer.condition
    reads = {*(own.reads if own is not None else ()), *(others.reads if others is not None else ())}
    if given.captions is not None and "caption" not in reads:
        raise InputError(f"condition.captions={given.captions}: neither prior nor tokenizer reads captions")
    if given.label is not None and "label" not in reads:
        raise InputError(f"condition.label={given.label}: neither prior nor tokenizer reads labels")
    if "caption" in reads and given.captions is None and not given.missing:
        raise InputError(
            "condition.captions=FILE must be given, a line for each sample, since prior or tokenizer reads captions; "
            "condition.missing=true takes samples as ones of which nothing is said"
        )
    captions = read_captions(given.captions, count) if given.captions is not None else []
    tell(generator, given)
    classes = min((one.classes for one in (own, others) if one is not None and one.classes is not None), default=None)
    if classes is None:
        return Asked(captions=captions)
    if given.label is not None and given.label >= classes:
        raise InputError(f"condition.label must be below {classes}, got {given.label}")
    return Asked([given.label] * count if given.label is not None else balanced(count, classes), captions)


def balanced(count: int, classes: int) -> list[int]:
    """A label for each of so many samples, all classes in turn."""
    return [number % classes for number in range(count)]


def tell(generator: Generator, given: DecodeConditionConfig) -> None:
    """Let the prior's condition find its nets."""
    if (own := generator.condition) is not None:
        generator.condition = give(own, own.gives, replace(read_by(own, given), quality=None))


def read_by(condition: Conditioner | None, given: DecodeConditionConfig) -> DecodeConditionConfig:
    """What one of prior and tokenizer reads of what is said for both; labels are said sample by sample."""
    weights = given.weights if isinstance(condition, NamedText) else None
    return replace(given, label=None, weights=weights, cache=given.cache if isinstance(condition, TextTower) else None)


def require_read(generator: Generator, tokenizer: Tokenizer, given: DecodeConditionConfig) -> None:
    """Refuse what neither prior nor tokenizer reads."""
    both = [read_by(one, given) for one in (generator.condition, tokenizer.condition)]
    for name, what in (("weights", "frozen net"), ("cache", "text tower")):
        if (value := getattr(given, name)) is not None and not any(getattr(one, name) for one in both):
            raise InputError(f"condition.{name}={value}: neither prior nor tokenizer names a {what}")
