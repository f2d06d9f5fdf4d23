"""Values as pure functions of the optimiser step."""

import math
from collections.abc import Sequence


def warmup_cosine(step: int, peak: float, warmup_steps: int, total_steps: int, final: float = 0.0) -> float:
    """Linear warm-up to ``peak``, then half a cosine down to ``final`` at ``total_steps`` (arXiv 1608.03983).

    Args:
        step: Optimiser steps taken so far, from 0.
        peak: Value after the warm-up.
        warmup_steps: Length of the warm-up; the first step already uses ``peak / warmup_steps``.
        total_steps: Step at which ``final`` is reached.
        final: Value at and after ``total_steps``.

    Example:
        >>> [round(warmup_cosine(step, 1.0, 2, 4), 3) for step in range(5)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if step >= total_steps:
        return final
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * done))


def drops(step: int, at: Sequence[int], factor: float) -> float:
    """What is left of a value that is multiplied by ``factor`` at each of the given steps.

    Args:
        step: Optimiser steps taken so far, from 0.
        at: The first steps that use a smaller value.
        factor: Of each drop.

    Example:
        >>> [drops(step, [2, 3], 0.5) for step in range(5)]
        [1.0, 1.0, 0.5, 0.25, 0.25]
    """
    return float(factor ** sum(step >= one for one in at))


def linear_ramp(step: int, start: int, length: int) -> float:
    """0 before ``start``, then linearly up to 1, which the step ``start + length - 1`` is the first to use.

    Args:
        step: Optimiser steps taken so far, from 0.
        start: First step that uses more than 0.
        length: Steps of the ramp; 0 = 1 from ``start`` on.

    Example:
        >>> [linear_ramp(step, 2, 4) for step in range(7)]
        [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """
    if step < start:
        return 0.0
    return min(1.0, (step - start + 1) / max(1, length))
