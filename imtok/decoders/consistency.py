"""Consistency models, which jump from any noisy map to the data (arXiv 2303.01469; in latents, 2310.04378)."""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from imtok.decoders.processes import Maps, Predict, Process, Times
from imtok.types import Loss

FIRST, LAST = 0.00085, 0.012  # variances that the first and the last step add in Stable Diffusion (arXiv 2112.10752)
SPREAD = 0.5  # deviation of the data that the boundary condition reckons with
Predicts = Literal["noise", "velocity"]
Steps = Int64[Tensor, " b"]


class Consistency(Process):
    """Noise is added in many steps, as in Stable Diffusion. A net jumps back to the data from any step.

    Let ``x`` be the map after step ``i`` and ``guess`` the data as the net predicts them. The jump is
    ``c_skip x + c_out guess``, where ``c_skip = 0.25 / ((scale i)^2 + 0.25)`` and
    ``c_out = scale i / sqrt((scale i)^2 + 0.25)``. At step 0, which is the data, the jump changes nothing, whatever
    the net predicts. Sampling in several steps jumps, adds fresh noise up to an earlier step, and jumps again.

    The loss of this class is that of denoising diffusion. ``objective=consistency`` trains a net to jump.

    Args:
        timesteps: Number of steps that add noise.
        predicts: What the net predicts: "noise"; "velocity" = ``sqrt(kept) noise - sqrt(1 - kept) data`` (arXiv
            2202.00512), whose error keeps its weight where almost only noise is left.
        scale: How fast the boundary condition fades from step 0 on.

    Raises:
        ValueError: If a number is not positive, or ``predicts`` is neither; in ``sample``, for too many steps.

    Example:
        >>> process, data = Consistency(predicts="noise"), torch.randn(2, 4, 8, 8)
        >>> steps, noise = torch.tensor([0, 500]), torch.randn(2, 4, 8, 8)
        >>> jumped = process.jump(lambda maps, times: noise, process.mixed(data, noise, steps), steps)
        >>> torch.equal(jumped[0], data[0]), torch.allclose(jumped[1], data[1], atol=1e-4)
        (True, True)
    """

    def __init__(self, timesteps: int = 1000, predicts: Predicts = "velocity", scale: float = 10.0) -> None:
        if timesteps < 1 or scale <= 0:
            raise ValueError(f"timesteps and scale must be positive, got {timesteps} and {scale}")
        if predicts not in get_args(Predicts):
            raise ValueError(f"predicts must be one of {', '.join(get_args(Predicts))}, got {predicts!r}")
        self.timesteps = timesteps
        self.predicts = predicts
        self.scale = scale
        growth = torch.linspace(math.sqrt(FIRST), math.sqrt(LAST), timesteps, dtype=torch.float64, device="cpu") ** 2
        kept = (1 - (growth * (1000 / timesteps)).clamp(max=0.999)).cumprod(0)
        self.kept = torch.cat([kept.new_ones(1), kept])  # the share of the data's variance that is left after a step

    @override
    def draw_times(self, count: int, generator: torch.Generator | None = None) -> Times:
        return self.draw_steps(count, generator) / self.timesteps

    def draw_steps(self, count: int, generator: torch.Generator | None = None) -> Steps:
        """Random steps to train at, on the CPU."""
        return torch.randint(1, self.timesteps + 1, (count,), generator=generator)

    def mixed(self, data: Maps, noise: Maps, steps: Steps) -> Maps:
        """The maps after these steps."""
        kept = self._kept(steps, data)
        return kept.sqrt() * data + (1 - kept).sqrt() * noise

    def jump(self, predict: Predict, maps: Maps, steps: Steps) -> Maps:
        """The data that the net jumps to from maps after these steps."""
        guess, _ = self._guess(predict, maps, steps)
        scaled = (steps.to(maps) * self.scale)[:, None, None, None]
        skip = SPREAD**2 / (scaled.square() + SPREAD**2)
        out = scaled / (scaled.square() + SPREAD**2).sqrt()
        return skip * maps + out * guess

    def back(self, predict: Predict, maps: Maps, steps: Steps, to: Steps) -> Maps:
        """Maps after earlier steps, by the net's deterministic way back (DDIM, arXiv 2010.02502)."""
        guess, drawn = self._guess(predict, maps, steps)
        return self.mixed(guess, drawn, to)

    @override
    def losses(self, predict: Predict, data: Maps, noise: Maps, times: Times) -> dict[str, Loss]:
        steps = (times * self.timesteps).round().long()
        predicted = predict(self.mixed(data, noise, steps), times).to(data.dtype)
        kept = self._kept(steps, data)
        wanted = noise if self.predicts == "noise" else kept.sqrt() * noise - (1 - kept).sqrt() * data
        return {self.predicts: Loss(F.mse_loss(predicted, wanted), 1.0)}

    @override
    def sample(self, predict: Predict, noise: Float[Tensor, "m b c h w"], steps: int) -> Maps:
        if not 1 <= steps <= self.timesteps:
            raise ValueError(f"steps must lie in [1, {self.timesteps}], got {steps}")
        data, count = noise[0], noise.shape[1]
        for number in range(steps):
            at = torch.full((count,), round(self.timesteps * (steps - number) / steps), device=noise.device)
            maps = noise[0] if number == 0 else self.mixed(data, noise[number], at)
            data = self.jump(predict, maps, at)
        return data

    @override
    def draws(self, steps: int) -> int:
        return steps

    def _guess(self, predict: Predict, maps: Maps, steps: Steps) -> tuple[Maps, Maps]:
        """The data and the noise by the net's prediction."""
        said = predict(maps, steps.to(maps) / self.timesteps).to(maps.dtype)
        kept = self._kept(steps, maps)
        signal, deviation = kept.sqrt(), (1 - kept).sqrt()
        if self.predicts == "noise":
            return (maps - deviation * said) / signal, said
        return signal * maps - deviation * said, deviation * maps + signal * said

    def _kept(self, steps: Steps, like: Maps) -> Float[Tensor, "b 1 1 1"]:
        return self.kept.to(like)[steps.to(like.device)][:, None, None, None]
