"""Weights of terms that reach what their config says in the course of the first steps."""

from collections.abc import Mapping

from imtok.errors import InputError
from imtok.schedules import linear_ramp
from imtok.types import Loss


class Ramp:
    """A factor that goes linearly from ``first`` to 1 and stays there: a pure function of the optimiser step.

    Args:
        first: The factor of the first step, not negative.
        steps: Optimiser steps until it is 1, at least 1.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> ramp = Ramp(first=3.0, steps=4)
        >>> [ramp(step) for step in range(6)]
        [3.0, 2.5, 2.0, 1.5, 1.0, 1.0]
    """

    def __init__(self, first: float, steps: int) -> None:
        if first < 0 or steps < 1:
            raise ValueError(f"first must not be negative and steps at least 1, got {first} and {steps}")
        self.first = first
        self.steps = steps

    def __call__(self, step: int) -> float:
        """The factor at an optimiser step."""
        done = linear_ramp(step, 1, self.steps)
        return self.first * (1 - done) + done


def ramped(terms: dict[str, Loss], ramps: Mapping[str, Ramp], step: int) -> dict[str, Loss]:
    """The terms, with the weights that they have at an optimiser step.

    Args:
        terms: By name.
        ramps: Of some of them, by the same names.
        step: Optimiser steps taken so far.

    Raises:
        InputError: If there is no term of a name, which would otherwise go unnoticed.
    """
    unknown = sorted(ramps.keys() - terms.keys())
    if unknown:
        raise InputError(
            f"objective.ramps must name terms of the quantizer or alignments, of which there are "
            f"{', '.join(sorted(terms)) or 'none'}, got {', '.join(unknown)}; give objective.ramps=null"
        )
    return {
        name: Loss(value, weight * ramps[name](step)) if name in ramps else Loss(value, weight)
        for name, (value, weight) in terms.items()
    }
