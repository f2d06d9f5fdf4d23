"""Random numbers that depend on the image and the step, and not on micro-batches and ranks."""

import numpy as np
import torch
import xxhash
from jaxtyping import Float64
from torch import Tensor

from imtok.types import Batch


def image_draws(batch: Batch, step: int, seed: int, count: int) -> Float64[Tensor, "b count"]:
    """Uniform numbers in [0, 1) for each image, as a function of the seed, the step and the image's place and name.

    The numbers of an image do not depend on how a step is split into micro-batches and over ranks.

    Args:
        batch: The images.
        step: Optimiser steps taken so far.
        seed: Seed of all steps.
        count: Numbers for each image.

    Example:
        >>> batch = Batch(torch.zeros(2, 3, 1, 1), torch.tensor([-1, -1]), torch.tensor([3, 7]), ["a", "b"])
        >>> image_draws(batch, 0, 0, 2).shape
        torch.Size([2, 2])
    """
    rows = []
    for index, key in zip(batch.index.tolist(), batch.key, strict=True):
        mixed = xxhash.xxh3_64_intdigest(f"{seed} {step} {index} {key}".encode())
        rows.append(np.random.Generator(np.random.Philox(key=mixed)).random(count))
    return torch.from_numpy(np.array(rows).reshape(len(rows), count))
