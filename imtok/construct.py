"""From plain values with ``_target_`` to objects, of the user's own config or of a stranger's, who is not trusted."""

import importlib
import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

from torch import nn

from imtok.errors import InputError

Config = dict[str, Any]
TRUSTED = "IMTOK_PACKAGES"  # environment variable: packages of the user's own, which stored configs may name as well

# Where modules have gone whose classes configs name. A row for each that was moved; CHANGELOG.md has them, too.
MOVED = {
    "imtok.evaluation.protocol": "imtok.measures.protocol",
    "imtok.metrics.extractors": "imtok.extractors",
    "imtok.measures.lengths": "imtok.measures.length",
    "imtok.data.cifar": "imtok.data.sources.small",
    "imtok.data.idx": "imtok.data.sources.small",
    "imtok.data.tars": "imtok.data.sources.webdataset",
}
_SOURCES = "captioned_photos folder huggingface imagenet mixture pairs photos pipeline webdataset"
MOVED |= {f"imtok.data.{name}": f"imtok.data.sources.{name}" for name in _SOURCES.split()}
# Classes of libraries whose subclasses may stand in a stored config where one of them is expected, and their library.
LIBRARIES = {
    "torch.optim.optimizer.Optimizer": "torch.optim",
    "lightning.pytorch.loggers.logger.Logger": "lightning.pytorch.loggers",
    "lightning.pytorch.callbacks.callback.Callback": "lightning.pytorch.callbacks",
    "torchmetrics.metric.Metric": "torchmetrics",
    "torchvision.transforms.v2._transform.Transform": "torchvision.transforms.v2",
}
_Bases = tuple[type, ...]


def construct(
    config: Any,
    packages: Sequence[str] | None = ("imtok",),
    provided: Mapping[str, Any] | None = None,
    key: str = "",
    base: type = object,
) -> Any:
    """Build the object that a dict with ``_target_`` describes; dicts and lists inside it too.

    All classes of a stored config are looked up and checked before the first of them is called.

    Args:
        config: Plain values.
        packages: The config is a stranger's: its classes may only be of these packages, of those that
            ``IMTOK_PACKAGES`` names, and of the kind that is expected where they stand. None = it is the user's own,
            and names any class.
        provided: Arguments that the outermost object's config leaves out; it gets those that its class takes.
        key: Where ``config`` stands in the user's config, for messages; empty = in none.
        base: What a stored config must describe here: an object of this class.

    Raises:
        InputError: Given a key, if a class refuses its arguments: one line with the keys of these.
        ValueError: If the class is not of ``packages``, is of another kind, or is not a class at all.
    """
    if packages is not None:
        check_stored(config, packages, base)
    return _build(config, _find if packages is None else import_class, provided, key)


def check_stored(config: Any, packages: Sequence[str] = ("imtok",), base: type = object, key: str = "") -> None:
    """Check every class that a stored config names. None of them is called.

    A class of imtok, or of a library, must be of the kind that is expected where it stands: by ``base``, and inside it
    by the type of the argument. Classes of the user's own packages may be what they like.

    Args:
        config: Plain values: a dict with ``_target_``, or any other value, in which there may be some.
        packages: See :func:`construct`.
        base: See :func:`construct`.
        key: Where ``config`` stands, for messages; empty = it is not said.

    Raises:
        ValueError: That names the class and what is wrong with it.
    """
    if base is not object and not (isinstance(config, dict) and "_target_" in config):
        raise ValueError(
            f"{key and f'{key}: '}a {base.__name__} must be given by a _target_ and its arguments, got {config!r:.80}"
        )
    _check(config, packages, (base,), key)


def stored_class(target: Any, packages: Sequence[str], bases: _Bases = (object,)) -> type:
    """The class that ``_target_`` names in a stored config. Nothing of it is called.

    Args:
        target: Its path; one by which imtok called it before will do.
        packages: See :func:`construct`.
        bases: What a class of imtok or of a library must be a subclass of, one of these; () = no part may stand there.

    Raises:
        ValueError: If there is no such class, or it may not stand there.
    """
    path = current_path(target)
    libraries = [LIBRARIES[one] for base in bases if (one := f"{base.__module__}.{base.__qualname__}") in LIBRARIES]
    library = path.startswith(tuple(f"{one}." for one in libraries))
    if not library and path.split(".")[0] not in (*packages, *trusted_packages()):
        raise ValueError(
            f"_target_ must be a class of {', '.join((*packages, *libraries))} in a stored config, got {target!r}; a "
            f"package of your own has to be named in the environment variable {TRUSTED}"
        )
    found = import_class(path) if library else _find(path)
    if (library or path.startswith("imtok.")) and not issubclass(found, bases):
        kinds = " or ".join(base.__name__ for base in bases) or "that no part is"
        raise ValueError(f"_target_ must name a class of the kind {kinds} here, got {target!r}")
    return found


def _find(target: Any) -> type:
    """The class that ``_target_`` names by the module that defines it."""
    found = import_class(target)
    if found.__module__ != current_path(target).rpartition(".")[0]:
        own = f"{found.__module__}.{found.__qualname__}"
        raise ValueError(f"_target_ must name a class by the module that defines it, got {target!r}; it is {own}")
    return found


def import_class(target: Any) -> type:
    """The class that ``_target_`` names by any path by which Python finds it."""
    try:
        found = import_path(target)
    except Exception as error:  # importing can raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"_target_ must name a class, got {target!r} ({reason})") from None
    if not isinstance(found, type):
        raise ValueError(f"_target_ must name a class by the module that defines it, got {target!r}")
    return found


def find_class(target: Any, bases: _Bases, key: str) -> type:
    """The class that ``_target_`` of the user's own config names, by any path by which Python finds it.

    Args:
        target: Its path, ``torch.optim.AdamW``. Nothing of the class is called.
        bases: It has to be a subclass of one of these.
        key: Where the part stands in the config, for messages.

    Raises:
        InputError: If there is no such class, or it is something else: a function, a class of another kind, or one
            that cannot be built.
    """
    try:
        found = import_path(target)
    except Exception as error:  # importing can raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{key}._target_: cannot import {target} ({reason})") from None
    if not (isinstance(found, type) and issubclass(found, bases)):
        wanted = " or ".join(f"{base.__module__}.{base.__name__}" for base in bases)
        raise InputError(f"{key}._target_ must name a subclass of {wanted}, got {target}")
    if inspect.isabstract(found) or found in bases:
        unwritten = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise InputError(
            f"{key}._target_ must name a class that can be built, got {target}, which "
            + (f"does not write {unwritten}" if unwritten else "is only a base")
        )
    return found


def import_path(target: Any) -> Any:
    """What a path leads to, as it is called now; any error if it leads to nothing."""
    module, _, name = current_path(target).rpartition(".")
    return getattr(importlib.import_module(module), name)


def current_path(target: Any) -> str:
    """The path of a class as it is now, given one of now or of before.

    Example:
        >>> current_path("imtok.evaluation.protocol.Protocol"), current_path("imtok.quantizers.vq.VQ")
        ('imtok.measures.protocol.Protocol', 'imtok.quantizers.vq.VQ')
    """
    path = str(target)
    for old, new in MOVED.items():
        if path.startswith(f"{old}."):
            return new + path.removeprefix(old)
    return path


def trusted_packages() -> list[str]:
    """Packages of the user's own whose classes stored configs may name, from ``IMTOK_PACKAGES=mine,other``."""
    return os.environ.get(TRUSTED, "").replace(",", " ").split()


def _check(node: Any, packages: Sequence[str], bases: _Bases, key: str) -> None:
    """Check the classes of a value and of all that it holds; ``bases`` says what may stand there."""
    if isinstance(node, dict) and "_target_" in node:
        try:
            factory = stored_class(node["_target_"], packages, bases)
        except ValueError as error:
            raise ValueError(f"{key and f'{key}.'}{error}") from None
        parameters, hints = arguments(factory)
        several = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
        for name, value in node.items():
            if name == "_target_":
                continue
            _check(value, packages, _kinds(hints[name]) if name in hints else (object,), key and f"{key}.{name}")
            if _holds_parts(hints.get(name)) and (other := list(_no_parts(value))):
                where = f"{key}.{name}" if key else f"{name} of {factory.__name__}"
                raise ValueError(f"{where} must be given by a _target_ and its arguments, got {other[0]!r:.80}")
            if name not in parameters and not several:
                where, ours = key and f"{key}: ", factory.__module__.startswith("imtok.")
                older = "; the version of imtok that stored this reads it" * ours
                raise ValueError(f"{where}{factory.__name__} has no argument {name!r}{older}")
    elif isinstance(node, dict):
        for name, value in node.items():
            _check(value, packages, bases, key and f"{key}.{name}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            _check(value, packages, bases, key and f"{key}[{index}]")


def arguments(factory: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """What a class or function takes, and the types of these as far as they can be read.

    Keywords that it takes by ``**name: Unpack[Keys]`` (PEP 692) stand for themselves, and none of them is required.

    Example:
        >>> from typing import TypedDict, Unpack
        >>> class Keys(TypedDict, total=False):
        ...     flip: bool
        >>> def read(path: str, **keys: Unpack[Keys]) -> None: ...
        >>> list(arguments(read)[0]), arguments(read)[1]["flip"]
        (['path', 'flip'], <class 'bool'>)

    Raises:
        ValueError: If it does not say what it takes.
    """
    try:
        hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    except (NameError, TypeError, AttributeError):  # libraries name some for type checkers alone
        hints = {}
    found = dict(inspect.signature(factory).parameters)
    for name, parameter in list(found.items()):
        keys = get_args(hints.get(name))
        if parameter.kind is parameter.VAR_KEYWORD and keys and is_typeddict(keys[0]):
            del found[name], hints[name]
            found |= {
                key: parameter.replace(name=key, kind=parameter.KEYWORD_ONLY, default=None)
                for key in keys[0].__annotations__
            }
            hints |= get_type_hints(keys[0])
    return found, hints


def _kinds(hint: Any) -> _Bases:
    """The classes of which an argument of this type holds objects, however deep.

    Example:
        >>> _kinds(Mapping[str, re.Pattern] | None), _kinds(Any), _kinds(list[int])
        ((<class 're.Pattern'>,), (<class 'object'>,), ())
    """
    return tuple(dict.fromkeys(_classes(hint)))


def _classes(hint: Any) -> Iterator[type]:
    if hint is Any:
        yield object
    elif get_args(hint):
        for arg in get_args(hint):
            yield from _classes(arg)
    elif isinstance(hint, type) and (hint is object or hint.__module__ != "builtins") and hint is not type(None):
        yield hint


def _holds_parts(hint: Any) -> bool:
    """Whether an argument of this type holds parts of imtok, or nets, and nothing else, however deep.

    Example:
        >>> _holds_parts(Mapping[str, nn.Module] | None), _holds_parts(str | nn.Module), _holds_parts(int)
        (True, False, False)
    """
    inner = get_args(hint)[-1:] if get_origin(hint) in (dict, Mapping) else get_args(hint)
    inner = [one for one in inner if one not in (NoneType, Ellipsis)]
    if inner:
        return all(map(_holds_parts, inner))
    return isinstance(hint, type) and (hint.__module__.startswith("imtok.") or issubclass(hint, nn.Module))


def _no_parts(value: Any) -> Iterator[Any]:
    """What of a value is no section with ``_target_``, where parts are expected."""
    if isinstance(value, list) or (isinstance(value, dict) and "_target_" not in value):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _no_parts(one)
    elif value is not None and not isinstance(value, dict):
        yield value


def _build(config: Any, find: Callable[[Any], type], provided: Mapping[str, Any] | None, key: str) -> Any:
    """Build a value, from the inside out.

    A class that tells its own parts something has a class method ``tell_parts``: of what the builder provides, and of
    its own settings, it makes what each part is provided with, by the part's name.
    """
    if isinstance(config, list):
        return [_build(item, find, None, key and f"{key}[{index}]") for index, item in enumerate(config)]
    if not isinstance(config, dict):
        return config
    if "_target_" not in config:
        return {name: _build(value, find, None, key and f"{key}.{name}") for name, value in config.items()}
    factory: Any = find(config["_target_"])
    taken = arguments(factory)[0]
    own = {name: value for name, value in (provided or {}).items() if name in taken}
    given = {name: value for name, value in config.items() if name != "_target_"}
    with _naming(config, key):
        told = factory.tell_parts(provided or {}, given) if hasattr(factory, "tell_parts") else {}
    built = {name: _build(value, find, told.get(name), key and f"{key}.{name}") for name, value in given.items()}
    with _naming(config, key):
        return factory(**{**built, **own})


@contextmanager
def _naming(config: Config, key: str) -> Iterator[None]:
    """Say at which key a class refuses its arguments."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if not key:
            raise
        if not isinstance(error, InputError):
            raise InputError(f"{key}: {error}") from error
        raise type(error)(_with_keys(str(error), config, key)) from None


def _with_keys(text: str, config: Config, key: str) -> str:
    """What a class says of arguments for files (``weights=PATH``), with the keys that a user gives in their place."""

    def instead(argument: re.Match[str]) -> str:
        return f"{'' if argument[1] in config else '+'}{key}.{argument[0]}"

    return re.sub(r"(?<![\w.+])(weights|heads|sha256)=", instead, text)
