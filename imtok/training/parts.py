"""Parts that may be classes of a library: a config names the class, and the group says what it has to be a kind of."""

import inspect
from collections.abc import Mapping
from typing import Any

from lightning import Callback
from lightning.pytorch.loggers import Logger
from torch.optim import Optimizer
from torchmetrics import Metric

from imtok import construct
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
        target: Its path, ``torch.optim.AdamW``.
        group: Of ``BASES``: the class has to be a subclass of the group's own.
        key: Where the part stands in the config, for messages.

    Raises:
        InputError: See :func:`imtok.construct.find_class`.
    """
    return construct.find_class(target, BASES[group], key)


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
        name: construct.construct(value, packages=None, key=f"{key}.{name}")
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
