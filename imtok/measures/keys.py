"""Puts config keys into the errors of nets, which name missing files by the nets' own arguments."""

import re
from collections.abc import Mapping

import torch

from imtok.errors import InputError

_OPTION = r"(?<![\w.])(weights|backbone|heads|sha256)="
_CLAUSE = re.compile(r",? or (?:give )?(?:[^,;]* )?([\w.]+)=\w+[^,;]*")


def with_keys(error: InputError, keys: Mapping[str, str]) -> InputError:
    """The same error in the words of the config.

    Args:
        error: What a net says.
        keys: The key for each argument. An argument without a key is left out, since a user cannot set it.

    Example:
        >>> said = InputError("a.pth is not in DIR; download URL, or give its path as weights=PATH")
        >>> str(with_keys(said, {"weights": "measure.fdd.weights"}))
        'a.pth is not in DIR; download URL, or give its path as measure.fdd.weights=PATH'
        >>> str(with_keys(said, {}))
        'a.pth is not in DIR; download URL'
    """
    text = _CLAUSE.sub(lambda clause: clause[0] if clause[1] in (*keys, *keys.values()) else "", str(error))
    return InputError(re.sub(_OPTION, lambda option: f"{keys.get(option[1], option[1])}=", text))


def without_cache(reason: str) -> str:
    """The same reason for a report that others read: where this machine keeps its files is left out."""
    return reason.replace(f"{torch.hub.get_dir()}/checkpoints", "the cache of torch.hub")
