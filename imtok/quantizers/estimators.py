"""Gradient estimators: how a gradient passes the choice of a code, which has none of its own."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from typing_extensions import override

NO_DIRECTION = 1e-6  # a shorter code points nowhere
NO_LENGTH = 1e-3  # so does a shorter latent: a rotation would multiply its gradient by |q| / |z|
OPPOSITE = 1e-3  # where u + v is shorter, its direction is rounding noise


@runtime_checkable
class Codes(Protocol):
    """What an estimator asks of a quantizer with one table."""

    training: bool
    generator: torch.Generator | None

    def choose(self, latents: Float[Tensor, "m d"], table: Float[Tensor, "v d"]) -> Int64[Tensor, " m"]:
        """The code of each latent."""
        ...

    def compared(
        self, latents: Float[Tensor, "m d"], table: Float[Tensor, "v d"]
    ) -> tuple[Float[Tensor, "m d"], Float[Tensor, "v d"]]:
        """Latents and codes as distances compare them."""
        ...

    def rows(self, ids: Int64[Tensor, "b n"], table: Float[Tensor, "v d"]) -> Float[Tensor, "b n d"]:
        """Rows of the table, with gradients to what makes them."""
        ...


@dataclass(frozen=True)
class Chosen:
    """What an estimator gives for each latent.

    Attributes:
        ids: Its code.
        codes: The row that losses compare it with: the nearest, with gradients to what makes the table.
        latents: What goes on in place of the latent, with gradients to it.
    """

    ids: Int64[Tensor, "b n"]
    codes: Float[Tensor, "b n d"]
    latents: Float[Tensor, "b n d"]


class Estimator(ABC):
    """Chooses codes, and passes gradients on. In evaluation: the code of the quantizer's own search, bit for bit.

    Attributes:
        draws: Whether random numbers are drawn in training.
        noisy: Whether what goes on in training is the code with noise.
        moves_codes: Whether the gradient of what goes on reaches the codes, too.
        soft: Whether it reaches all codes, through their distances to the latent.
        chooses: Whether it takes codes of its own choice in training, and so none that it is given.
    """

    draws = noisy = moves_codes = soft = chooses = False

    def __call__(
        self,
        latents: Float[Tensor, "b n d"],
        table: Float[Tensor, "v d"],
        of: Codes,
        ids: Int64[Tensor, "b n"] | None = None,
    ) -> Chosen:
        """Choose a row of ``table`` for each latent, unless ``ids`` says which."""
        if ids is None:
            ids = of.choose(latents.flatten(0, 1), table).view(latents.shape[:2])
        codes = of.rows(ids, table)
        return Chosen(ids, codes, self.passed(codes, latents, of))

    @abstractmethod
    def passed(self, codes: Float[Tensor, "b n d"], latents: Float[Tensor, "b n d"], of: Codes) -> Tensor:
        """What goes on in place of ``latents``, for which ``codes`` were chosen."""


def straight_through(codes: Float[Tensor, "*shape"], latents: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``codes`` bit for bit, with the gradient of ``latents`` (arXiv 1308.3432). NaN latents give NaN."""
    return codes.detach() + (latents - latents.detach())


def rotation(codes: Float[Tensor, "*shape d"], latents: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape d"]:
    """``codes`` bit for bit, with the gradient ``|q|/|z| R^T g``: R is the rotation from z to q (arXiv 2410.06424).

    With u and v the directions of z and q, and w that of u + v, ``R z = z - 2 w (w . z) + 2 v (u . z)``. Opposite
    vectors have no single such rotation and no w: the mirror that remains turns one into the other as well. A vector
    near zero has no direction, so there the gradient passes straight through.
    """
    with torch.no_grad():
        long, length = (vectors.norm(dim=-1, keepdim=True) for vectors in (codes, latents))
        u, v = latents / length.clamp_min(NO_LENGTH), codes / long.clamp_min(NO_DIRECTION)
        between = (u + v).norm(dim=-1, keepdim=True)
        w = torch.where(between < OPPOSITE, 0, (u + v) / between.clamp_min(OPPOSITE))
        gain = long / length.clamp_min(NO_LENGTH)
        undirected = (long < NO_DIRECTION) | (length < NO_LENGTH)

    def along(direction: Tensor) -> Tensor:
        return (latents * direction).sum(-1, keepdim=True)

    rotated = gain * (latents - 2 * w * along(w) + 2 * v * along(u))
    return straight_through(codes, torch.where(undirected, latents, rotated))


class StraightThrough(Estimator):
    """:func:`straight_through`."""

    @override
    def passed(self, codes: Float[Tensor, "b n d"], latents: Float[Tensor, "b n d"], of: Codes) -> Tensor:
        return straight_through(codes, latents)


class Rotation(Estimator):
    """:func:`rotation`."""

    @override
    def passed(self, codes: Float[Tensor, "b n d"], latents: Float[Tensor, "b n d"], of: Codes) -> Tensor:
        return rotation(codes, latents)


class DiVeQ(Estimator):
    """``z + |e - z| sg v / |v|`` with ``v = e - z + noise`` in training (DiVeQ, arXiv 2509.26469).

    The error of quantization, with its true length and nearly its true direction. Its length has gradients, so that
    latents and codes learn without the codebook and commitment losses: give these the weight 0. The paper's other
    method, SF-DiVeQ, is left out: its decoder sees points between two codes, in evaluation too, which ids do not tell.

    Args:
        variance: Of each channel of the noise, not negative. The paper has 0.001, and 0.01 for VQGAN.
    """

    draws = noisy = moves_codes = True

    def __init__(self, variance: float = 1e-3) -> None:
        if not variance >= 0:
            raise ValueError(f"variance must not be negative, got {variance}")
        self.deviation = math.sqrt(variance)

    @override
    def passed(self, codes: Float[Tensor, "b n d"], latents: Float[Tensor, "b n d"], of: Codes) -> Tensor:
        error = codes - latents
        direction = error.detach()
        if of.training:
            direction = direction + self.deviation * torch.randn_like(direction, generator=of.generator)
        moved = latents + error.norm(dim=-1, keepdim=True) * F.normalize(direction, dim=-1)
        return moved if of.training else codes.detach() + (moved - moved.detach())
