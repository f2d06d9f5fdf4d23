"""Start from the weights of another tokenizer: of all parts or of some, with positions resized where they must be."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from imtok.construct import current_path
from imtok.distributed import launched_rank
from imtok.errors import InputError
from imtok.nn.resized import resized
from imtok.tokenizer import Tokenizer
from imtok.training.settings import is_inside

log = logging.getLogger(__name__)

_PARTS = ("image_size", "channels", "in_space", "encoder", "quantizer", "decoder", "space", "condition")
_SAID = 6  # differences that one line holds


def take_weights(tokenizer: Tokenizer, source: str, parts: Sequence[str] = ()) -> None:
    """Copy the weights of a stored tokenizer, and say in a line what was taken and what not.

    Tables of positions, and what stands for the tokens of a sequence, are resized where they are as wide and of another
    length (:func:`imtok.nn.resized.resized`).

    Args:
        tokenizer: The tokenizer that gets them.
        source: A run folder or a tokenizer folder.
        parts: Names of parts. Of each of these the weights are taken that fit, if they are more than half of it; others
            stay as they are. () = all weights of all parts are taken, or none.

    Raises:
        InputError: If there is no such part, or weights do not fit: it names the parts, what their configs differ in,
            and the first weight of each. Nothing is copied then.
    """
    known = [name for name, _ in tokenizer.named_modules() if name]
    for part in parts:
        if part not in known:
            named = ", ".join(name for name in known if "." not in name)
            raise InputError(f"init_from.parts must name parts of the tokenizer ({named}, ...), got {part!r}")
    other = Tokenizer.load(source)
    own, theirs = (_inside(net.state_dict(), parts) for net in (tokenizer, other))
    fitted, changed = dict(theirs), list[str]()
    for name in own.keys() & theirs.keys():
        if own[name].shape != theirs[name].shape and (new := resized(name, tokenizer, other)) is not None:
            fitted[name] = new.values
            changed.append(f"{name} from {new.before} to {new.after} ({new.how})")
    wrong = _wrong(fitted, own)
    differences = dict(_differences(other.config or {}, tokenizer.config or {}, parts=parts))
    taken = {name: value for name, value in fitted.items() if name in own and own[name].shape == value.shape}
    unfit = [part for part in parts or ("",) if _is_unfit(part, own, taken, bool(parts))] if wrong else []
    if unfit:
        first = {name.split(".")[0]: why for name, why in reversed(wrong.items())}  # of each part
        _refuse(source, {part: why for part, why in first.items() if not parts or part in _first(unfit)}, differences)
    _say(source, parts, len(taken), len(own), sorted(changed), wrong, differences)
    tokenizer.load_state_dict(tokenizer.state_dict() | taken)


def _is_unfit(part: str, own: dict[str, Tensor], taken: dict[str, Tensor], alone: bool) -> bool:
    """Whether too little of a part is left: anything is, unless it was asked for alone."""
    needed = [name for name in own if not part or is_inside(name, (part,))]
    numbers = sum(own[name].numel() for name in needed)
    return not alone or 2 * sum(own[name].numel() for name in needed if name in taken) <= numbers > 0


def _refuse(source: str, wrong: dict[str, str], differences: dict[str, str]) -> None:
    causes = sorted(wrong, key=lambda part: not any(key.split(".")[0] == part for key in differences))  # come first
    lines = [_explain(part, wrong[part], differences) for part in causes]
    size = differences.get("image_size")
    lines += [f"image_size ({size})"] if size else []
    raise InputError(
        f"init_from={source} has other parts than this config: {'; '.join(lines)}; give the parts and settings "
        "that it was trained with, or init_from.parts=[...] to take those that fit, or leave init_from out"
    )


def _say(
    source: str,
    parts: Sequence[str],
    taken: int,
    all_of: int,
    changed: Sequence[str],
    wrong: dict[str, str],
    differences: dict[str, str],
) -> None:
    """The line about what was taken; a warning if it was not everything as it was."""
    words = f"took {taken} of {all_of} weights of {', '.join(parts)}" if parts else f"took all {all_of} weights"
    line = [
        f"init_from={source}: {words}",
        *([f"resized {', '.join(changed)}"] if changed else []),
        *([f"did not fit: {_some(list(wrong.values()))}"] if wrong else []),
        *([f"differs in {_some([f'{key} ({both})' for key, both in differences.items()])}"] if differences else []),
    ]
    if launched_rank() == 0:
        log.log(logging.INFO if len(line) == 1 else logging.WARNING, "%s", "; ".join(line))


def _some(told: Sequence[str]) -> str:
    return ", ".join(told[:_SAID]) + (f" and {len(told) - _SAID} more" if len(told) > _SAID else "")


def _inside(weights: dict[str, Tensor], parts: Sequence[str]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if not parts or is_inside(name, parts)}


def _first(names: Iterable[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def _wrong(theirs: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, str]:
    """The weights that do not fit, and why."""
    found = dict[str, str]()
    for name in [*own, *(name for name in theirs if name not in own)]:
        there, here = (_shape(weights.get(name)) for weights in (theirs, own))
        if there != here:
            found[name] = f"{name} is {there} there and {here} here"
    return found


def _explain(part: str, first: str, differences: dict[str, str]) -> str:
    settings = [f"{key} {both}" for key, both in differences.items() if key == part or key.startswith(f"{part}.")]
    told = [*settings[:_SAID], *["..."] * (len(settings) > _SAID), first]
    return f"{part} ({', '.join(told)})"


def _differences(theirs: Any, own: Any, key: str = "", parts: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Keys whose values differ, and both values; of parts of different classes only the classes."""
    if not key:
        for part in _PARTS if not parts else ("image_size", *dict.fromkeys(part.split(".")[0] for part in parts)):
            yield from _differences(theirs.get(part), own.get(part), part)
    elif not isinstance(theirs, dict) or not isinstance(own, dict):
        if theirs != own:
            yield key, f"{_name(theirs)} there, {_name(own)} here"
    elif current_path(theirs.get("_target_")) != current_path(own.get("_target_")):
        yield key, f"{_name(theirs)} there, {_name(own)} here"
    else:
        for name in dict.fromkeys([*theirs, *own]):
            if name != "weights":  # what a part started from, not what it is
                yield from _differences(theirs.get(name), own.get(name), f"{key}.{name}")


def _name(value: Any) -> str:
    return str(value["_target_"]).rpartition(".")[2] if isinstance(value, dict) and "_target_" in value else str(value)


def _shape(tensor: Tensor | None) -> str:
    return str(list(tensor.shape)) if tensor is not None else "absent"
