"""From config sections to objects: the only place where a user's own classes may be named."""

import inspect
import re
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

import torch

from imtok.construct import construct, import_path
from imtok.data.base import OF_ANY, Data
from imtok.errors import InputError, named
from imtok.measures.protocol import Protocol
from imtok.objectives.with_prior import build_objective
from imtok.tokenizer import Tokenizer

_PARTS = ("encoder", "quantizer", "regularizer", "decoder", "space", "condition")
_TOKENIZER = (*_PARTS, "image_size", "channels", "in_space")
_SECTIONS = (*_PARTS, "objective", "data")
_GIVES = {"text": "words", "label": "label", "quality": "quality"}  # a condition for each kind


def build_tokenizer(plain: dict[str, Any]) -> Tokenizer:
    """Build the tokenizer of a training config, its weights drawn from the config's seed."""
    torch.manual_seed(plain["seed"])
    config = {name: plain[name] for name in _TOKENIZER if plain.get(name) is not None}
    for name, usual in (("channels", 3), ("in_space", [])):
        if config.get(name) == usual:  # the usual value is not stored, so older tokenizers have the same config
            config.pop(name)
    if not config.get("condition"):
        config.pop("condition", None)
    try:
        tokenizer = Tokenizer.from_config(config, packages=None)
        tokenizer.num_tokens((plain["image_size"], plain["image_size"]))
        tokenizer.freeze(plain.get("freeze", []))
        _check_condition(tokenizer)
    except (TypeError, ValueError) as error:
        raise InputError(f"the tokenizer cannot be built: {error}") from None
    except (RuntimeError, OverflowError, MemoryError) as error:
        said = (str(error).splitlines() or ["not enough memory"])[0]
        if isinstance(error, RuntimeError) and not re.search("alloc|overflow|out of range|too large", said):
            raise
        raise InputError(f"the tokenizer cannot be built, since a number is too large: {said}") from None
    return tokenizer


def _check_condition(tokenizer: Tokenizer) -> None:
    """Refuse parts that need something of the condition that it does not give, and a condition that no part reads.

    Which kinds a part of somebody else's reads is its own business.

    Raises:
        ValueError: That names part and kind.
    """
    condition, parts = tokenizer.condition, {"encoder": tokenizer.encoder, "decoder": tokenizer.decoder}
    gives = () if condition is None else condition.gives
    for name, part in parts.items():
        for kind in part.needs:
            if kind not in gives:
                raise ValueError(
                    f"{name} ({type(part).__name__}) needs the {kind} of each image, and the condition gives none; "
                    f"give condition={_GIVES[kind]}, or another {name}"
                )
    read = {kind for part in parts.values() for kind in part.takes}
    ours = all(type(part).__module__.startswith("imtok.") for part in parts.values())
    if condition is not None and ours and not read & set(gives):
        raise ValueError(
            f"condition ({type(condition).__name__}) gives the {' and '.join(gives)} of each image, which neither "
            "encoder nor decoder reads; give condition=none, or parts that do"
        )


def require_classes(plain: dict[str, Any]) -> None:
    """Check that every part of a part says what class it is.

    A recipe, or its size, changes some keys of its own parts. Where the command line takes others, these keys are
    left over and belong to nothing.

    Raises:
        InputError: If a section has keys and no class, or keys that its class does not take.
    """
    left = [path for section in _SECTIONS for path in _left_over(plain.get(section), section)]
    if left:
        has = "has keys but no class" if len(left) == 1 else "have keys but no classes"
        raise InputError(
            f"{', '.join(left)} {has} (_target_): a recipe or its size changes these keys of its own parts, and "
            f"others were given; leave them out by {' '.join(f'~{key}' for path in left for key in _keys(plain, path))}"
        )


def _keys(plain: dict[str, Any], path: str) -> list[str]:
    """What ``~`` has to name: of a section all its keys, since there the section is a choice and no value."""
    return [f"{path}.{key}" for key in plain[path]] if path in plain else [path]


def _left_over(node: Any, path: str) -> list[str]:
    """The keys below a section that hold a dict where a class is wanted."""
    if not isinstance(node, dict) or not node:
        return []
    if "_target_" not in node:
        return [path]
    try:
        hints = get_type_hints(import_path(node["_target_"]).__init__)
    except Exception:  # what cannot be imported is refused elsewhere, by name
        return []
    found = []
    for name, value in node.items():
        wanted, key = _classes(hints.get(name)), f"{path}.{name}"
        if isinstance(value, dict) and ("_target_" in value or wanted & {"part"}):
            found += _left_over(value, key)
        elif isinstance(value, dict) and wanted & {"parts"}:
            found += [left for inner, part in value.items() for left in _left_over(part, f"{key}.{inner}")]
    return found


def _classes(hint: Any) -> set[str]:
    """Whether an argument takes a "part", an object of imtok or of a user, or several "parts" by name."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return {kind for arg in args for kind in _classes(arg)}
    if inspect.isclass(origin) and issubclass(dict, origin) and len(args) == 2:  # and no Iterable of one kind
        return {"parts"} if _classes(args[1]) else set()
    return {"part"} if inspect.isclass(hint) and hint.__module__ not in ("builtins", "pathlib") else set()


def build_protocol(plain: dict[str, Any]) -> Protocol:
    """Build the protocol section; its extractor, or the one of the config's own section, when a metric needs it."""
    own, rest = plain.get("extractor"), dict(plain["protocol"])
    nested = rest.pop("extractor", None)
    given = {"extractor": own or nested, "key": "extractor" if own else "protocol.extractor"}
    with named("protocol"):
        return cast(Protocol, construct(rest, packages=None, provided=given, key="protocol"))


def build_data(plain: dict[str, Any]) -> Data:
    """Build the data section, without the keys that are not arguments of a kind of data."""
    section = {key: value for key, value in plain["data"].items() if key not in OF_ANY}
    return cast(Data, build_part({"data": section}, "data"))


def build_part(plain: dict[str, Any], section: str) -> Any:
    """Build one section; InputError that names it if it refuses its settings."""
    with named(section):
        if section == "objective":
            return build_objective(plain[section])
        return construct(plain[section], packages=None, key=section)


def by_name(section: Any) -> dict[str, Any]:
    """The parts of a section that were not taken out by null."""
    return {name: node for name, node in (section or {}).items() if node is not None}
