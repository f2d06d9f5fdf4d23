"""Start from the weights of another tokenizer: of all parts, or not at all."""

import logging
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from imtok.errors import InputError
from imtok.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_PARTS = ("image_size", "encoder", "quantizer", "decoder", "space", "condition")
_SAID = 6  # differences that one line holds


def take_weights(tokenizer: Tokenizer, source: str) -> None:
    """Copy the weights of a stored tokenizer.

    Where the two differ in settings and the weights fit all the same, a warning says so.

    Args:
        tokenizer: The tokenizer that gets them.
        source: A run folder or a tokenizer folder.

    Raises:
        InputError: If a weight is missing, has another shape or belongs to nothing here; it names the parts, what
            their configs differ in, and the first weight of each. Nothing is copied then.
    """
    other = Tokenizer.load(source)
    differences = dict(_differences(other.config or {}, tokenizer.config or {}))
    wrong = _wrong(other.state_dict(), tokenizer.state_dict())
    if wrong:
        parts = sorted(
            wrong, key=lambda part: not any(key.split(".")[0] == part for key in differences)
        )  # causes first
        lines = [_explain(part, wrong[part], differences) for part in parts]
        size = differences.get("image_size")
        lines += [f"image_size ({size})"] if size else []
        raise InputError(
            f"init_from={source} has other parts than this config: {'; '.join(lines)}; give the parts and settings "
            f"that it was trained with, or leave init_from out"
        )
    if differences:
        told = [f"{key} ({both})" for key, both in differences.items()]
        more = f" and {len(told) - _SAID} more" if len(told) > _SAID else ""
        log.warning("init_from=%s fits, but differs in %s%s", source, ", ".join(told[:_SAID]), more)
    tokenizer.load_state_dict(other.state_dict())


def _wrong(theirs: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, str]:
    """The first weight of each part that does not fit, and why."""
    found = dict[str, str]()
    for name in [*own, *(name for name in theirs if name not in own)]:
        there, here = (_shape(weights.get(name)) for weights in (theirs, own))
        if there != here:
            found.setdefault(name.split(".")[0], f"{name} is {there} there and {here} here")
    return found


def _explain(part: str, first: str, differences: dict[str, str]) -> str:
    settings = [f"{key} {both}" for key, both in differences.items() if key == part or key.startswith(f"{part}.")]
    told = [*settings[:_SAID], *["..."] * (len(settings) > _SAID), first]
    return f"{part} ({', '.join(told)})"


def _differences(theirs: Any, own: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Keys whose values differ, and both values; of parts of different classes only the classes."""
    if not key:
        for part in _PARTS:
            yield from _differences(theirs.get(part), own.get(part), part)
    elif not isinstance(theirs, dict) or not isinstance(own, dict):
        if theirs != own:
            yield key, f"{_name(theirs)} there, {_name(own)} here"
    elif theirs.get("_target_") != own.get("_target_"):
        yield key, f"{_name(theirs)} there, {_name(own)} here"
    else:
        for name in dict.fromkeys([*theirs, *own]):
            if name != "weights":  # what a part started from, not what it is
                yield from _differences(theirs.get(name), own.get(name), f"{key}.{name}")


def _name(value: Any) -> str:
    return str(value["_target_"]).rpartition(".")[2] if isinstance(value, dict) and "_target_" in value else str(value)


def _shape(tensor: Tensor | None) -> str:
    return str(list(tensor.shape)) if tensor is not None else "absent"
