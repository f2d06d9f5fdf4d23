"""The judges of an objective: losses, alignments and an adversary, whose nets may come with published weights."""

from collections.abc import Mapping
from typing import Any

import torch

from imtok.construct import construct
from imtok.errors import InputError, MissingWeightsError
from imtok.objectives.base import Objective
from imtok.objectives.with_prior import build_objective

_COSTS = {
    "losses": "reconstructions come out smoother",
    "adversary": "fine texture stays blurred",
    "alignments": "tokens learn less of what an image means",
}


def build_with_found(
    section: dict[str, Any], before: Mapping[str, str] | None = None
) -> tuple[Objective, dict[str, str]]:
    """Build an objective without the judges whose weights are nowhere on this machine.

    A judge is an image loss, an alignment or the adversary. One for which somebody named a file is refused as ever if
    that file, or another that it needs, is missing or damaged.

    Args:
        section: The objective's section of the config; the judges that are left out are taken out of it.
        before: The judges that the run so far is without, and why: these and no others are left out again. None = the
            run begins.

    Returns:
        The objective, and for each judge that is left out, by its config key, why that is and what it costs.

    Raises:
        InputError: If a part refuses its settings, no image loss is left, or a judge of the run so far is missing.
    """
    judges, parts = _Judges(before), dict(section)
    for kind, given in section.items():  # in the order in which they would be built otherwise
        if kind == "adversary" and given:
            parts[kind] = judges.build("objective.adversary", given)
        elif kind in _COSTS and given:
            built = {name: judges.build(f"objective.{kind}.{name}", config) for name, config in given.items()}
            parts[kind] = {name: part for name, part in built.items() if part is not None}
    left = judges.left
    missing = [why for key, why in left.items() if key.startswith("objective.losses.")]
    if missing and not parts["losses"]:
        raise InputError(missing[0])
    for key in left:
        _, kind, *names = key.split(".")
        if names:
            section[kind] = {name: config for name, config in section[kind].items() if name != names[0]}
        else:
            section[kind] = None
    ramps = section.get("ramps")
    if ramps:
        section["ramps"] = {name: ramp for name, ramp in ramps.items() if f"objective.alignments.{name}" not in left}
        parts["ramps"] = section["ramps"]
    return build_objective(parts), left


class _Judges:
    """Builds judges, and keeps in ``left`` which could not be built."""

    def __init__(self, before: Mapping[str, str] | None) -> None:
        self.before = before
        self.left = dict[str, str]()

    def build(self, key: str, config: dict[str, Any]) -> Any:
        """The judge, or None if it is left out."""
        if self.before is not None and key in self.before:
            self.left[key] = self.before[key]
            return None
        state = torch.get_rng_state()
        try:
            return construct(config, packages=None, key=key)
        except MissingWeightsError as error:
            if _names_file(config):
                raise InputError(str(error)) from None
            if self.before is not None:
                raise InputError(
                    f"{key} has judged this run so far, and its weights are missing now: {error}"
                ) from None
            self.left[key] = f"{error}. Without it {_COSTS[key.split('.')[1]]}"
            torch.set_rng_state(state)  # as if the config had never had it
            return None


def _names_file(config: Any) -> bool:
    """Whether a judge's config says where some of its weights are, or that they are random."""
    if not isinstance(config, dict):
        return False
    named = any(isinstance(config.get(key), str) for key in ("weights", "heads"))
    return named or any(map(_names_file, config.values()))
