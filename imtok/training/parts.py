"""Parts that may be classes of a library: a config names the class, and the group says what it has to be a kind of."""

import inspect
from collections.abc import Mapping
from typing import Any

from lightning import Callback
from lightning.pytorch.loggers import Logger
from torch.optim import Optimizer
from torchmetrics import Metric

from imtok.construct import construct, import_path
from imtok.errors import InputError
from imtok.measures.base import Measure
from imtok.schedules import Schedule

BASES: dict[str, tuple[type, ...]] = {
    "optimizer": (Optimizer,),
    "schedule": (Schedule,),
    "logger": (Logger,),
    "callback": (Callback,),
    "measure": (Measure, Metric),
}


def find_class(target: Any, group: str, key: str) -> type:
    """The class that ``_target_`` names. Nothing of it is called.

    Args:
        target: Its path, ``torch.optim.AdamW``; any path by which Python finds it will do.
        group: Of ``BASES``: the class has to be a subclass of the group's own.
        key: Where the part stands in the config, for messages.

    Raises:
        InputError: If there is no such class, or it is something else: a function, or a class of another kind.
    """
    bases = BASES[group]
    try:
        found = import_path(target)
    except Exception as error:  # importing can raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{key}._target_: cannot import {target} ({reason})") from None
    if not (isinstance(found, type) and issubclass(found, bases)):
        wanted = " or ".join(f"{base.__module__}.{base.__name__}" for base in bases)
        raise InputError(f"{key}._target_ must name a subclass of {wanted}, got {target}")
    if inspect.isabstract(found) or found in bases:
        raise InputError(f"{key}._target_ must name a class that can be built, got {target}, which is only a base")
    return found


def build(section: Mapping[str, Any], group: str, key: str, provided: Mapping[str, Any] | None = None) -> Any:
    """Build the part that a section with ``_target_`` of the user's own config describes.

    Args:
        section: Plain values; dicts with ``_target_`` in them are built first.
        group: See :func:`find_class`.
        key: Where the section stands in the config.
        provided: Arguments that the config leaves out; the class gets those that it takes.

    Raises:
        InputError: If the class is not of the group, or refuses its arguments.
    """
    found = find_class(section.get("_target_"), group, key)
    arguments = {
        name: construct(value, packages=None, key=f"{key}.{name}")
        for name, value in section.items()
        if name != "_target_"
    }
    taken = inspect.signature(found).parameters
    missing = {name: value for name, value in (provided or {}).items() if name in taken and name not in arguments}
    try:
        return found(**missing, **arguments)
    except InputError:
        raise
    except Exception as error:  # libraries have errors of their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{key}: {found.__name__}: {reason}") from error
