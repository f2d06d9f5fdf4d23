"""The schedules of a run, built and looked at before it begins."""

import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any

from imtok.errors import InputError
from imtok.schedules import Schedule
from imtok.training.parts import build
from imtok.training.settings import OptimizerSettings

Schedules = Mapping[str, Schedule]  # by the net whose rate it is: "tokenizer", or a net of the objective
_LOOKED_AT = 1000  # steps
GIVEN = ("warmup_steps", "final_lr")  # keys of the optimizer that a schedule takes if it has arguments of these names


def build_schedules(
    section: Mapping[str, Any] | None, settings: OptimizerSettings, steps: int, nets: Iterable[str] = ()
) -> Schedules:
    """The schedules of the tokenizer and of the objective's nets, of one class.

    Args:
        section: ``schedule`` of the config; None = warm-up, then half a cosine.
        settings: The optimizer's.
        steps: Of the run.
        nets: Names of the objective's nets, beside a critic.

    Raises:
        InputError: If it cannot be built, or one of its rates is none.
    """
    if not section:
        return {}
    found = {
        net: build(section, "schedule", "schedule", {name: getattr(given, name) for name in GIVEN})
        for net, given in (("tokenizer", settings), *((net, settings.for_net(net)) for net in ("critic", *nets)))
    }
    for step in sorted({*range(0, steps, max(1, steps // _LOOKED_AT)), steps - 1}):
        _check(found["tokenizer"], settings, step, steps)
    return found


def unread(schedule: Schedule | None) -> list[str]:
    """The keys of ``GIVEN`` that a schedule does not take."""
    taken = GIVEN if schedule is None else inspect.signature(type(schedule)).parameters
    return [name for name in GIVEN if name not in taken]


def _check(schedule: Schedule, settings: OptimizerSettings, step: int, steps: int) -> None:
    name = type(schedule).__name__
    try:
        rate = settings.rate(step, steps, 0, schedule)
    except Exception as error:  # a class of the user's own may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"schedule: {name} fails at step {step} of {steps}: {reason}") from error
    if not isinstance(rate, (int, float)) or not math.isfinite(rate) or rate < 0:
        raise InputError(f"schedule: {name} must give a finite rate of at least 0, got {rate} at step {step}")
