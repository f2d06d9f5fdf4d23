"""Whether the settings of parts fit the signatures of their classes."""

import inspect
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, TypeGuard, Union, get_args, get_origin, is_typeddict

from imtok.classifiers.adapting import AdapterNet
from imtok.classifiers.augment import Augmentation
from imtok.classifiers.base import TokenClassifier
from imtok.conditions.base import Conditioner
from imtok.construct import arguments, import_path
from imtok.data.base import OF_ANY, Data
from imtok.decoders.base import Decoder
from imtok.encoders.base import Encoder
from imtok.errors import InputError
from imtok.explain import SEVERAL
from imtok.export.formats.base import Format
from imtok.hints import hint, moved
from imtok.losses.alignment.heads import Head
from imtok.losses.prior.base import PriorLoss
from imtok.measures.chosen import extractor_class
from imtok.measures.making import DIRECTION
from imtok.measures.protocol import Protocol
from imtok.objectives.base import Objective
from imtok.objectives.with_prior import NAME as PRIOR
from imtok.objectives.with_prior import takes_prior
from imtok.overrides import PATHS, quoted
from imtok.priors.base import Prior
from imtok.quantizers.base import Quantizer
from imtok.regularizers.base import Regularizer
from imtok.spaces.base import Space
from imtok.training.optimizers import arguments_of
from imtok.training.parts import BASES, find_class
from imtok.training.rates import GIVEN
from imtok.training.settings import net_key
from imtok.training.told_sizes import LISTENERS, TOLD, named_class

# The kind that a part of the config has to be of.
EXPECTED: dict[str, type] = {
    "data": Data, "encoder": Encoder, "quantizer": Quantizer, "regularizer": Regularizer, "decoder": Decoder,
    "space": Space, "condition": Conditioner, "objective": Objective, "protocol": Protocol, "format": Format,
    "prior": Prior, "objective.prior": PriorLoss, "classifier": TokenClassifier, "augmentation": Augmentation,
    "adapter": AdapterNet,
}  # fmt: skip
# Arguments that imtok.build passes itself, so that YAML files leave them out.
_TOLD = {"text_dim", "text_length", "classes", "other_tokens", "other_vocab_sizes"}  # of the condition
PROVIDED = {
    "encoder": {"out_dim", "image_size", "image_channels", "space"} | _TOLD,
    "decoder": {"in_dim", "image_size", "image_channels", "space", "num_latents"} | _TOLD,
    "space": {"image_channels"},
    "prior": {"layout"} | _TOLD,
    "classifier": {"dim", "tokens", "classes"},
    "adapter": {"dim"},
    "prior.head": {"vocab_sizes", "width"},
    "prior.prefix": {"width"} | _TOLD,
    "schedule": set(GIVEN),
    "logger.*": {"save_dir", "name", "version", "run_name", "run_id"},
    "optimizer.*": {"params"},
}
_OPTIMIZER = re.compile(r"optimizer(\.critic|\.nets\.[^.]+)?(\.beside)?")  # where the class of one is named


def check_parts(plain: dict[str, Any], unread: Sequence[str] = (), typed: set[str] | None = None) -> list[str]:
    """What is wrong with the dicts with ``_target_`` in a config, however deep, one line each.

    A class that takes ``**kwargs`` decides itself which keys it reads.

    Args:
        plain: The whole config as plain values.
        unread: Keys at its top that nothing reads.
        typed: Keys that the user gave. All others come from files; None = not known.
    """
    lines = list[str]()
    read = {key: value for key, value in plain.items() if key not in unread}
    for path, node in [*_targets(read), *_of_nets(plain.get("optimizer"))]:
        if re.fullmatch(r"measure\.\w+", path):  # the direction is not for the class, where it does not take it
            node = {key: value for key, value in node.items() if key != DIRECTION}
        if path == "data":
            extra = OF_ANY if "trainer" in plain else ("boxes",) if "protocol" in plain else ()
            node = {key: value for key, value in node.items() if key not in extra}
        if path == "objective" and takes_prior(node):  # for any class of an objective
            lines += _of_prior(node[PRIOR])
            node = {key: value for key, value in node.items() if key != PRIOR}
        if _OPTIMIZER.fullmatch(path) and not path.endswith(".beside"):
            node = _for_its_class({key: value for key, value in node.items() if path == "optimizer" or key != "clip"})
        other = list(_of_other_class(path, node, EXPECTED.get(path, Any))) or list(_of_no_group(path, node))
        other = other or list(_of_no_extractor(path, node))
        provided = PROVIDED.get(path) or PROVIDED.get(f"{path.split('.')[0]}.*", set())
        lines += other or _check_node(path, node, provided | _told(node), typed)
    lines += _of_extractor(plain, typed or set())
    return [*lines, *(line for group in SEVERAL for line in _by_name(group, plain.get(group)))]


def _of_extractor(plain: dict[str, Any], typed: set[str]) -> Iterator[str]:
    """What is wrong with the places that an evaluation's extractor is named in."""
    own, protocol = plain.get("extractor"), plain.get("protocol")
    nested = protocol.get("extractor") if isinstance(protocol, dict) else None
    if own is not None and not isinstance(own, dict):
        yield f"extractor: must be an option or a section with _target_, got {own!r}"
    if nested is not None and not isinstance(nested, dict):
        yield f"protocol.extractor: is a section with _target_; give extractor={nested} in its place"
    elif nested is not None and "_target_" not in nested:
        yield "protocol.extractor: it has no _target_, so nothing can build it; give extractor=NAME in its place"
    for key in sorted(typed if isinstance(own, dict) else ()):
        if key.startswith("protocol.extractor."):
            yield f"{key}: nothing reads it, since extractor takes the place; give {key.removeprefix('protocol.')}"


def _of_prior(section: Any) -> Iterator[str]:
    """Where what an objective is to learn with is no part at all."""
    if section is not None and not (isinstance(section, dict) and "_target_" in section):
        yield (
            "objective.prior: it has no _target_, so nothing can build it; give "
            f"+objective/prior@objective.prior={section if isinstance(section, str) else 'larp'}, or ~objective.prior"
        )


def _of_no_extractor(path: str, node: dict[str, Any]) -> Iterator[str]:
    """Where an evaluation's extractor is a class of another kind, wherever it is from."""
    if path not in ("extractor", "protocol.extractor"):
        return
    try:
        extractor_class(node, path)
    except InputError as error:
        if "cannot import" not in str(error):  # which is said of every part
            yield str(error)


def _told(node: dict[str, Any]) -> set[str]:
    """The arguments that parts are told wherever they stand: those of an objective, nets inside another net."""
    found = named_class(node)
    if found is None:
        return set()
    kinds = {Head: {"in_dim", "out_dim"}, Encoder: PROVIDED["encoder"], Decoder: PROVIDED["decoder"]}
    told = next((names for kind, names in kinds.items() if issubclass(found, kind)), set[str]())
    return told | (set(TOLD) if issubclass(found, LISTENERS) else set())


def _by_name(group: str, section: Any) -> Iterator[str]:
    """What is wrong with a section that holds parts by names of the user's choice."""
    if section is not None and (not isinstance(section, dict) or "_target_" in section):
        yield f"{group}: takes parts by name: {group}={{NAME: {{_target_: ...}}}}, got {section!r}"
        return
    for name, node in (section or {}).items():
        if node is not None and not (isinstance(node, dict) and "_target_" in node):
            yield f"{group}.{name}: it has no _target_, so nothing can build it; ~{group}.{name} removes it"


def _of_nets(optimizer: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """What differs for the critic and other nets whose optimiser is of the tokenizer's class, as if they named it."""
    if not isinstance(optimizer, dict) or "_target_" not in optimizer:
        return
    nets = optimizer.get("nets")
    for name, net in {**(nets if isinstance(nets, dict) else {}), "critic": optimizer.get("critic")}.items():
        if not isinstance(net, dict) or net.get("_target_") is not None:
            continue
        if any(value is not None for key, value in net.items() if key != "_target_"):
            yield net_key(name), {**net, "_target_": optimizer["_target_"], "beside": optimizer.get("beside")}


def _for_its_class(node: dict[str, Any]) -> dict[str, Any]:
    """What of the section of an optimiser its class is given."""
    try:
        return arguments_of(node)
    except InputError:  # a class that cannot be had is refused below, by name
        return {"_target_": node["_target_"]}


def _of_no_group(path: str, node: dict[str, Any]) -> Iterator[str]:
    """Where a part that may be a class of a library is none of its group, or no class at all."""
    group = path.split(".")[0]
    if group not in BASES or (path.count(".") > 1 and not _OPTIMIZER.fullmatch(path)):
        return
    try:
        find_class(node["_target_"], group, path)
    except InputError as error:
        yield str(error)


def _targets(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if "_target_" in node and not (node["_target_"] is None and _OPTIMIZER.fullmatch(path)):
            yield path, node
        for key, value in node.items():
            yield from _targets(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _targets(value, f"{path}[{index}]")


def _check_node(path: str, node: dict[str, Any], provided: set[str], typed: set[str] | None) -> Iterator[str]:
    target = node["_target_"]
    try:
        factory: Callable[..., Any] = import_path(target)
        parameters, hints = arguments(factory)
    except Exception as error:  # importing can raise anything, and not all that can be imported says what it takes
        yield f"{path}._target_: cannot import {target} ({_why_absent(target, error)})"
        return
    # Keys that are given: does the class take them, and does their value fit?
    given = {key: value for key, value in node.items() if key != "_target_"}
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    left_over = list[str]()
    for key, value in given.items():
        if key not in parameters and open_ended:
            continue
        if key not in parameters:
            meant = moved(f"{path}.{key}") or hint(key, list(parameters))
            if typed is not None and f"{path}.{key}" not in typed and not re.match("; (did you mean|it is now)", meant):
                left_over.append(key)
            else:
                yield f"{path}.{key}: {target.rpartition('.')[2]} has no argument {key}{meant}"
        elif other := list(_of_other_class(f"{path}.{key}", value, hints.get(key, Any))):
            yield from other
        elif unbuilt := list(_unbuilt(f"{path}.{key}", value, hints.get(key, Any))):
            yield from (
                f"{where}: it has no _target_, so nothing can build it; ~{where} removes it" for where in unbuilt
            )
        elif value != "???" and not _fits(value, hints.get(key, Any)):
            yield f"{path}.{key}: must be {_name(hints[key])}, got {value!r}{_as_path(f'{path}.{key}', value)}"
        elif _is_number(value) and value < 0 and hints.get(key) is int and str(target).startswith("imtok."):
            yield f"{path}.{key}: must not be negative, got {value}"
        elif isinstance(value, list) and hints.get(key) == Sequence[int] and any(item < 0 for item in value):
            yield f"{path}.{key}: must not hold negative numbers, got {value}"
    # Keys of a recipe or another option, which the user has not typed, are named together.
    if left_over:
        leave = " ".join(f"~{path}.{key}" for key in left_over)
        yield (
            f"{path}: {target.rpartition('.')[2]} has no argument {', '.join(left_over)}, which a recipe, its size or "
            f"another option sets; leave out by {leave}"
        )
    # Keys that are not given: does the class need them?
    for key, parameter in parameters.items():
        several = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        required = parameter.default is parameter.empty and not several
        if required and key not in given and key not in provided:
            yield f"{path}.{key}: required by {target.rpartition('.')[2]} and not set; give +{path}.{key}=VALUE"


def _why_absent(target: Any, error: Exception) -> str:
    """Why a class cannot be had, and which one may have been meant."""
    module, _, name = str(target).rpartition(".")
    found = sys.modules.get(module)  # imported on the way, if there is one
    if found is None or hasattr(found, name):
        return (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
    classes = [key for key, value in vars(found).items() if inspect.isclass(value) and value.__module__ == module]
    return f"{module} has no {name}{hint(name, classes) if classes else ''}"


def _wanted(hint: Any) -> list[Any]:
    """What a type names beside null: ``A | B | None`` names A and B."""
    args = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return [one for one in args if one is not NoneType]


def _named(value: Any, hint: Any) -> Iterator[tuple[str, Any, Any]]:
    """The names of a section of parts, with what stands at each and the type of it; a part itself has none."""
    if not isinstance(value, dict) or "_target_" in value:
        return
    for one in _wanted(hint):
        origin = get_origin(one)
        if inspect.isclass(origin) and issubclass(dict, origin):
            yield from ((key, item, get_args(one)[-1]) for key, item in value.items())


def _unbuilt(path: str, value: Any, hint: Any) -> Iterator[str]:
    """Keys at which a part is expected and the value names no class."""
    for key, item, item_hint in _named(value, hint):
        yield from _unbuilt(f"{path}.{key}", item, item_hint)
    wanted = _wanted(hint)
    parts = [
        one
        for one in wanted
        if inspect.isclass(one)
        and not issubclass(one, dict)
        and not is_typeddict(one)
        and one.__module__.split(".")[0] not in ("builtins", "typing")
    ]
    ours = all(one.__module__.startswith("imtok.") for one in parts)
    stands = value == "???" or (value is None and NoneType in get_args(hint))  # for a later part, or none
    unnamed = "_target_" not in value if isinstance(value, dict) else ours and not stands
    if parts and len(parts) == len(wanted) and unnamed:
        yield path


def _of_other_class(path: str, value: Any, hint: Any) -> Iterator[str]:
    """Where a part of imtok stands in the place of another kind. Classes of a user's own may be what they like."""
    for key, item, item_hint in _named(value, hint):
        yield from _of_other_class(f"{path}.{key}", item, item_hint)
    if not isinstance(value, dict) or not str(value.get("_target_")).startswith("imtok."):
        return
    wanted = _wanted(hint)
    if not all(inspect.isclass(one) and one.__module__.startswith("imtok.") for one in wanted):
        return
    try:
        found = import_path(value["_target_"])
    except Exception:  # what cannot be imported is refused by name
        return
    ours = inspect.isclass(found) and found.__module__.startswith("imtok.")
    if ours and not issubclass(found, tuple(wanted)):
        yield f"{path}._target_: must be of class {' or '.join(one.__name__ for one in wanted)}, got {found.__name__}"


def _as_path(key: str, value: Any) -> str:
    """How to write a path that reads like a list, if the value may be one."""
    if key.rpartition(".")[2] not in PATHS or not isinstance(value, list):
        return ""
    text = f"[{','.join(map(str, value))}]"
    return f"; a path of that name is {shlex.quote(f'{key}={quoted(text)}')}"


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain YAML value can be passed for ``hint``; unknown hints always fit."""
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(value, dict) and "_target_" in value:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if hint is NoneType:
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return _is_number(value)
    if hint in (str, bool):
        return isinstance(value, hint)
    if inspect.isclass(origin) and issubclass(tuple, origin) and isinstance(value, list):  # Sequence, list, tuple
        items = args[:1] * len(value) if (len(args) == 2 and args[1] is ...) or len(args) == 1 else args
        return len(items) == len(value) and all(map(_fits, value, items))
    if inspect.isclass(origin) and issubclass(list, origin):
        return isinstance(value, list) and all(_fits(item, args[0]) for item in value)
    if inspect.isclass(origin) and issubclass(dict, origin):
        return isinstance(value, dict)
    return True


def _is_number(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}
_SEVERAL = {int: "whole numbers", float: "numbers", str: "texts"}


def _name(hint: Any) -> str:
    """What an argument takes, in words.

    Example:
        >>> _name(int | None), _name(tuple[float, float]), _name(Literal["a", "b"])
        ('a whole number or null', 'a list of 2 numbers', 'a or b')
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(map(str, args))
    if origin in (Union, UnionType):
        return " or ".join(map(_name, args))
    if hint in _WORDS:
        return _WORDS[hint]
    if inspect.isclass(origin) and (origin is list or issubclass(tuple, origin)) and args[0] in _SEVERAL:
        number = f"{len(args)} " if origin is tuple and ... not in args else ""
        return f"a list of {number}{_SEVERAL[args[0]]}"
    return hint.__name__ if inspect.isclass(hint) and not args else re.sub(r"[\w.]+\.(\w+)", r"\1", str(hint))
