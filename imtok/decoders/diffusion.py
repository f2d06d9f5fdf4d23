"""Denoising diffusion (DDPM, arXiv 2006.11239) with learned variances (arXiv 2102.09672), as DiT has it."""

import math
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from imtok.decoders.processes import Maps, Predict, Process, Times
from imtok.types import Loss

Way = Literal["ancestral", "ddim"]


class Diffusion(Process):
    """Noise is added in many small steps of linearly growing variance; the net predicts the noise.

    Beside the noise it predicts where the variance of a step back lies between the two bounds that theory gives; this
    half is trained on the variational bound, with the noise prediction held fixed. At the last step back there is no
    variance to learn; DiT has the likelihood of 8-bit levels there, which the maps of an autoencoder do not have.

    Args:
        way: "ancestral" adds fresh noise after each step back, of the learned variance; "ddim" adds none (arXiv
            2010.02502).
        timesteps: Steps that noise is added in.

    Raises:
        ValueError: If ``way`` is neither; in ``sample``, for more steps than there are.

    Example:
        >>> Diffusion().draw_times(3).shape
        torch.Size([3])
    """

    predictions = 2

    def __init__(self, way: Way = "ancestral", timesteps: int = 1000) -> None:
        if way not in get_args(Way):
            raise ValueError(f"way must be one of {', '.join(get_args(Way))}, got {way!r}")
        self.way = way
        self.timesteps = timesteps
        growth = torch.linspace(0.1 / timesteps, 20 / timesteps, timesteps, dtype=torch.float64, device="cpu")
        self.signals: list[float] = (1 - growth).cumprod(0).tolist()  # the share of the data that is left, in variance
        self.table = torch.tensor(
            [_step(*pair) for pair in pairwise([1.0, *self.signals])], dtype=torch.float64, device="cpu"
        )

    @override
    def draw_times(self, count: int, generator: torch.Generator | None = None) -> Times:
        return torch.randint(self.timesteps, (count,), generator=generator) / self.timesteps

    @override
    def losses(self, predict: Predict, data: Maps, noise: Maps, times: Times) -> dict[str, Loss]:
        rows = self.table[(times * self.timesteps).round().long().cpu()].to(data)
        signal, deviation, clean, kept, low, high = rows[:, :, None, None, None].unbind(1)
        noisy = signal * data + deviation * noise
        predicted = predict(noisy, times).to(data.dtype)
        drawn, between = predicted.chunk(2, 1)
        mean = clean * data + kept * noisy
        guess = clean * (noisy - deviation * drawn.detach()) / signal + kept * noisy
        log_variance = low + (between + 1) / 2 * (high - low)
        bound = (log_variance - low - 1 + (low - log_variance).exp() + (mean - guess).square() / log_variance.exp()) / 2
        return {
            "noise": Loss(F.mse_loss(drawn, noise), 1.0),
            "variance": Loss(bound.mean() / math.log(2), 1.0),
        }

    @override
    def sample(self, predict: Predict, noise: Float[Tensor, "m b c h w"], steps: int) -> Maps:
        maps = noise[0]
        kept = self._spaced(steps)
        signals = [1.0, *(self.signals[index] for index in kept)]
        for number in range(steps, 0, -1):
            step = _step(signals[number - 1], signals[number])
            times = maps.new_full((maps.shape[0],), kept[number - 1] / self.timesteps)
            drawn, between = predict(maps, times).to(maps.dtype).chunk(2, 1)
            data = (maps - step.deviation * drawn) / step.signal
            if self.way == "ddim":
                maps = math.sqrt(signals[number - 1]) * data + math.sqrt(1 - signals[number - 1]) * drawn
            else:
                maps = step.clean * data + step.kept * maps
                if number > 1:
                    log_variance = step.low + (between + 1) / 2 * (step.high - step.low)
                    maps = maps + (log_variance / 2).exp() * noise[steps - number + 1]
        return maps

    @override
    def draws(self, steps: int) -> int:
        return steps if self.way == "ancestral" else 1

    def _spaced(self, steps: int) -> list[int]:
        """The time steps of a shorter way, evenly spaced."""
        if not 1 <= steps <= self.timesteps:
            raise ValueError(f"steps must lie in [1, {self.timesteps}], got {steps}")
        stride = (self.timesteps - 1) / (steps - 1) if steps > 1 else 1.0
        return [round(index * stride) for index in range(steps)]


class _Step(NamedTuple):
    """The numbers of one step.

    Attributes:
        signal: Factor of the data in the map after the step.
        deviation: Factor of the noise in it.
        clean: Factor of the data in the mean of the map before the step, given data and map after it.
        kept: Factor of the map after the step in that mean.
        low: Log variance of the map before the step, given data and map after it.
        high: Log variance of the noise that the step adds.
    """

    signal: float
    deviation: float
    clean: float
    kept: float
    low: float
    high: float


def _step(before: float, after: float) -> _Step:
    """The step between two shares of the data's variance that are left."""
    growth = 1 - after / before
    high = math.log(growth)
    return _Step(
        signal=math.sqrt(after),
        deviation=math.sqrt(1 - after),
        clean=math.sqrt(before) * growth / (1 - after),
        kept=math.sqrt(after / before) * (1 - before) / (1 - after),
        low=math.log(growth * (1 - before) / (1 - after)) if before < 1 else high,
        high=high,
    )
