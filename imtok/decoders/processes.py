"""Ways between data and noise: what a net predicts on the way, what it is trained on, and how it draws."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from imtok.types import Loss

Maps = Float[Tensor, "b c h w"]
Times = Float[Tensor, " b"]
Predict = Callable[[Maps, Times], Float[Tensor, "b c2 h w"]]
TimeLaw = Literal["uniform", "logit_normal", "mode"]
Solver = Literal["euler", "heun"]


class Process(ABC):
    """Noise is added to data until time 1, where nothing but noise is left.

    Attributes:
        predictions: Maps that the net predicts per channel of the data; of the first guidance takes hold.
    """

    predictions: int = 1

    @abstractmethod
    def draw_times(self, count: int, generator: torch.Generator | None = None) -> Times:
        """Times to train at, on the CPU."""

    @abstractmethod
    def losses(self, predict: Predict, data: Maps, noise: Maps, times: Times) -> dict[str, Loss]:
        """What training minimises: how far the predictions at ``times`` are from what they should be."""

    @abstractmethod
    def sample(self, predict: Predict, noise: Float[Tensor, "m b c h w"], steps: int) -> Maps:
        """Data out of noise, in ``steps`` steps.

        Args:
            predict: The net.
            noise: The start and, where the way back is random, the noise that each step adds: ``draws(steps)`` maps
                per image.
            steps: At least 1.
        """

    def draws(self, steps: int) -> int:
        """Noise maps that ``sample`` takes per image."""
        return 1


class RectifiedFlow(Process):
    """A straight line from data to noise, and its velocity as prediction (arXiv 2209.03003).

    ``x(t) = (1 - t) data + t noise``; the net predicts ``noise - data``.

    Args:
        times: Law of the times in training: "uniform"; "logit_normal", the sigmoid of a normal variable; "mode", with
            most weight in the middle for a positive ``mode_scale`` (both arXiv 2403.03206).
        mode_scale: Of "mode": between -1 and 1.75.
        solver: "euler" follows the velocity; "heun" goes each step again with the mean of the velocities at its ends,
            for twice the predictions.

    Raises:
        ValueError: If an argument has no such choice.

    Example:
        >>> flow = RectifiedFlow(solver="euler")
        >>> data, noise = torch.ones(1, 1, 2, 2), torch.randn(1, 1, 1, 2, 2)
        >>> drawn = flow.sample(lambda maps, times: (maps - data) / times[:, None, None, None], noise, steps=3)
        >>> torch.allclose(drawn, data)
        True
    """

    def __init__(self, times: TimeLaw = "logit_normal", mode_scale: float = 1.29, solver: Solver = "euler") -> None:
        for name, value, choices in (("times", times, get_args(TimeLaw)), ("solver", solver, get_args(Solver))):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        if not -1 <= mode_scale <= 1.75:
            raise ValueError(f"mode_scale must be between -1 and 1.75, got {mode_scale}")
        self.times = times
        self.mode_scale = mode_scale
        self.solver = solver

    @override
    def draw_times(self, count: int, generator: torch.Generator | None = None) -> Times:
        if self.times == "logit_normal":
            return torch.randn(count, generator=generator).sigmoid()
        uniform = torch.rand(count, generator=generator)
        if self.times == "uniform":
            return uniform
        return 1 - uniform - self.mode_scale * ((math.pi / 2 * uniform).cos().square() - 1 + uniform)

    @override
    def losses(self, predict: Predict, data: Maps, noise: Maps, times: Times) -> dict[str, Loss]:
        share = times[:, None, None, None]
        predicted = predict(data.lerp(noise, share), times)
        return {"velocity": Loss(F.mse_loss(predicted.to(data.dtype), noise - data), 1.0)}

    @override
    def sample(self, predict: Predict, noise: Float[Tensor, "m b c h w"], steps: int) -> Maps:
        maps = noise[0]
        for step in range(steps, 0, -1):
            velocity = predict(maps, maps.new_full((maps.shape[0],), step / steps))
            if self.solver == "heun" and step > 1:
                ahead = maps - velocity / steps
                velocity = (velocity + predict(ahead, maps.new_full((maps.shape[0],), (step - 1) / steps))) / 2
            maps = maps - velocity / steps
        return maps
