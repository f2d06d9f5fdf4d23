"""Values as pure functions of the optimiser step."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from typing_extensions import override


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


class Schedule(ABC):
    """A learning rate as a function of the step alone: a run that goes on has the rates of one that never stopped.

    A class of your own is an option like these. If its ``__init__`` takes ``warmup_steps`` or ``final_lr`` and the
    config does not set them there, it is given ``optimizer.warmup_steps`` and ``optimizer.final_lr``. For the critic
    it is given those of ``optimizer.critic``.
    """

    @abstractmethod
    def __call__(self, step: int, steps: int, peak: float) -> float:
        """The learning rate of a step: finite, and not negative.

        Args:
            step: Steps since the schedule began, from 0.
            steps: Its length.
            peak: The highest learning rate, ``optimizer.lr``.
        """


class WarmupCosine(Schedule):
    """Linear warm-up, then half a cosine (arXiv 1608.03983).

    Args:
        warmup_steps: Steps of the warm-up.
        final_lr: Learning rate at the last step, as a fraction of the peak.
    """

    def __init__(self, warmup_steps: int = 0, final_lr: float = 0.0) -> None:
        self.warmup_steps = warmup_steps
        self.final_lr = final_lr

    @override
    def __call__(self, step: int, steps: int, peak: float) -> float:
        return warmup_cosine(step, peak, self.warmup_steps, steps, peak * self.final_lr)


class Constant(Schedule):
    """Linear warm-up, then the peak. ``optimizer.drop_at`` makes drops, as it does for every schedule.

    Args:
        warmup_steps: Steps of the warm-up.

    Example:
        >>> [Constant(warmup_steps=2)(step, 4, 0.5) for step in range(4)]
        [0.25, 0.5, 0.5, 0.5]
    """

    def __init__(self, warmup_steps: int = 0) -> None:
        self.warmup_steps = warmup_steps

    @override
    def __call__(self, step: int, steps: int, peak: float) -> float:
        return warmup_cosine(step, peak, self.warmup_steps, steps, peak)


class Exponential(Schedule):
    """Linear warm-up, then the same factor per step down to ``final_lr``.

    Args:
        warmup_steps: Steps of the warm-up.
        final_lr: Learning rate at the last step, as a fraction of the peak, above 0.

    Raises:
        ValueError: If ``final_lr`` is not positive.

    Example:
        >>> [round(Exponential(warmup_steps=2, final_lr=0.25)(step, 6, 1.0), 3) for step in range(7)]
        [0.5, 1.0, 1.0, 0.707, 0.5, 0.354, 0.25]
    """

    def __init__(self, warmup_steps: int = 0, final_lr: float = 0.1) -> None:
        if final_lr <= 0:
            raise ValueError(
                f"final_lr must be above 0 to be reached exponentially, got {final_lr}; give optimizer.final_lr=0.01"
            )
        self.warmup_steps = warmup_steps
        self.final_lr = final_lr

    @override
    def __call__(self, step: int, steps: int, peak: float) -> float:
        if step < self.warmup_steps:
            return warmup_cosine(step, peak, self.warmup_steps, steps, peak)
        done = min(1.0, (step - self.warmup_steps) / max(1, steps - self.warmup_steps))
        return float(peak * self.final_lr**done)


class WSD(Schedule):
    """Linear warm-up, the peak, and a decay at the end (arXiv 2404.06395).

    Args:
        warmup_steps: Steps of the warm-up.
        final_lr: Learning rate at the last step, as a fraction of the peak.
        decay: Length of the decay, as a fraction of the steps after the warm-up.
        shape: ``linear``, or ``sqrt``: ``1 - sqrt(x)`` at the fraction ``x`` of the decay (arXiv 2405.18392).

    Raises:
        ValueError: If ``decay`` is not in [0, 1], or there is no such shape.

    Example:
        >>> [round(WSD(warmup_steps=2, decay=0.5)(step, 10, 1.0), 2) for step in range(11)]
        [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """

    def __init__(
        self,
        warmup_steps: int = 0,
        final_lr: float = 0.0,
        decay: float = 0.2,
        shape: Literal["linear", "sqrt"] = "linear",
    ) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must be in [0, 1], got {decay}")
        if shape not in ("linear", "sqrt"):
            raise ValueError(f"shape must be linear or sqrt, got {shape}")
        self.warmup_steps = warmup_steps
        self.final_lr = final_lr
        self.decay = decay
        self.shape = shape

    @override
    def __call__(self, step: int, steps: int, peak: float) -> float:
        length = round(self.decay * max(0, steps - self.warmup_steps))
        if step < self.warmup_steps or step < steps - length:
            return warmup_cosine(step, peak, self.warmup_steps, steps, peak)
        done = min(1.0, (step - (steps - length)) / max(1, length))
        left = 1 - (math.sqrt(done) if self.shape == "sqrt" else done)
        return peak * (self.final_lr + (1 - self.final_lr) * left)
