"""Tokens replaced by neighbours of theirs, as a generator's small mistakes do (RobustTok, arXiv 2503.08354)."""

from collections.abc import Sequence

import numpy as np
import torch
import xxhash
from jaxtyping import Bool, Float, Int64
from torch import Tensor


class Draws:
    """Random numbers for each id of each image, from its name alone: neither batch, workers nor ranks matter.

    One set serves every (alpha, delta), so that points of a grid differ by these two only.

    Args:
        keys: Names of the images.
        shape: Tokens and slots of an image.
        seed: Of all numbers.

    Example:
        >>> first, second = Draws(["a", "b"], (4, 1), 0), Draws(["b"], (4, 1), 0)
        >>> torch.equal(first.chosen[1], second.chosen[0])
        True
    """

    def __init__(self, keys: Sequence[str], shape: tuple[int, int], seed: int) -> None:
        drawn = np.empty((len(keys), 2, *shape))
        for row, key in enumerate(keys):
            digest = xxhash.xxh3_128_digest(key.encode())
            words = np.frombuffer(digest, dtype="<u8").astype(np.uint64)
            generator = np.random.Generator(np.random.Philox(counter=[0, words[0], words[1], 0], key=[seed, 0x9F1D]))
            drawn[row] = generator.random((2, *shape))
        self.chosen: Float[Tensor, "b t g"] = torch.from_numpy(drawn[:, 0].copy())
        self.which: Float[Tensor, "b t g"] = torch.from_numpy(drawn[:, 1].copy())


def perturb(
    ids: Int64[Tensor, "b t g"],
    neighbours: Int64[Tensor, "b t g most"],
    draws: Draws,
    alpha: float,
    delta: int,
    keep: Bool[Tensor, "b t"] | None = None,
) -> Int64[Tensor, "b t g"]:
    """Replace a part ``alpha`` of the ids by one of its ``delta`` nearest codes, itself among them.

    So a part ``alpha (1 - 1 / delta)`` changes. Each slot of a token is drawn for itself.

    Args:
        ids: Token ids.
        neighbours: At least ``delta`` nearest codes of each, nearest first, the id itself first of all.
        draws: The random numbers of these images.
        alpha: In [0, 1].
        delta: At least 1.
        keep: True = transmitted; others stay. None = all are.
    """
    if not 0 <= alpha <= 1 or not 1 <= delta <= neighbours.shape[-1]:
        raise ValueError(f"alpha must lie in [0, 1] and delta in [1, {neighbours.shape[-1]}], got {alpha} and {delta}")
    chosen = (draws.chosen < alpha).to(ids.device)
    if keep is not None:
        chosen = chosen & keep[..., None]
    place = (draws.which * delta).long().clamp(max=delta - 1).to(ids.device)
    return torch.where(chosen, neighbours.gather(-1, place[..., None])[..., 0], ids)
