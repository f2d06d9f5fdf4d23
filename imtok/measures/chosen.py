"""The extractor that a config's section describes: named without being built, and built when a metric needs it."""

import inspect
from collections.abc import Mapping
from typing import Any

from imtok.construct import construct, find_class
from imtok.errors import InputError
from imtok.extractors.base import Extractor
from imtok.extractors.inception import Inception

Section = Mapping[str, Any]


def extractor_class(section: Section, key: str) -> type[Extractor]:
    """The class that a section names; nothing of it is called.

    Args:
        section: Plain values with ``_target_``.
        key: Where it stands in the config, for messages.

    Raises:
        InputError: If there is no such class, or it is no extractor.
    """
    return find_class(section.get("_target_"), (Extractor,), key)


def described(section: Section, key: str) -> dict[str, Any]:
    """What a report says of an extractor: its family or class as ``extractor``, and the arguments that it names."""
    found = extractor_class(section, key)
    own = vars(found).get("family", "")  # of a subclass in another package its own path
    parameters = inspect.signature(found).parameters
    told = {name: section.get(name, parameters[name].default) for name in found.told if name in parameters}
    return {"extractor": own or f"{found.__module__}.{found.__qualname__}", **told}


def built(section: Section, key: str) -> Extractor:
    """Build what a section describes, and try it on one image.

    Raises:
        InputError: With the section's key, if its class refuses its settings, a weight file is missing or another one,
            or what comes out is not what an extractor promises.
    """
    found = extractor_class(section, key)
    try:
        made = construct(dict(section), None, key=key)
        made.freeze()
        made.check()
        _require_own_name(made)
    except InputError:
        raise
    except Exception as error:  # a class of one's own can raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{key}: {found.__name__}: {reason}") from error
    return made


def require_statistics(made: Extractor, length: int, what: str) -> None:
    """Refuse stored statistics of other features.

    Args:
        made: The extractor that they are to be compared with.
        length: Of their mean.
        what: Where they are from.

    Raises:
        InputError: If the length is another one, or it is that of the Inception's, whose statistics are what others
            publish, and the extractor is another net.
    """
    if length != made.dim:
        raise InputError(f"{what} must have {made.dim} values, got {length}; as many are the features of {made.name}")
    if length == Inception.dim and not isinstance(made, Inception):
        raise InputError(
            f"{what} has {length} values, as the statistics of the Inception have, and {made.name} is another net; "
            "give the images themselves"
        )


def _require_own_name(made: Extractor) -> None:
    """Refuse a net that passes for the one that published values of FID are of."""
    name = made.distance if made.distance.startswith("fid_") else made.name
    if type(made) is not Inception and name.startswith(("fid_", Inception.family)):
        raise ValueError(f"name must not be that of the net which published values of FID are of, got {name}")
