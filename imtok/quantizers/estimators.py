"""Gradient estimators: how a gradient passes the choice of a code, which has none of its own."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

NO_DIRECTION = 1e-6  # a shorter code points nowhere
NO_LENGTH = 1e-3  # so does a shorter latent: a rotation would multiply its gradient by |q| / |z|
OPPOSITE = 1e-3  # where u + v is shorter, its direction is rounding noise


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


ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "straight_through": straight_through,
    "rotation": rotation,
}


def find_estimator(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The estimator of that name; ValueError if there is none."""
    if name not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {name!r}")
    return ESTIMATORS[name]
