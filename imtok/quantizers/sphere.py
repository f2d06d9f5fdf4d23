"""Scales vectors to unit length, with bounded gradients for vectors near zero."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from imtok.quantizers.estimators import straight_through

SHORT_LATENT = 1e-3  # gradients grow a thousandfold at most; the latents of an encoder are 100 times as long and more
SHORT_CODE = 1e-6  # a fresh table of V codes has lengths around 1 / V: none of them is as short


def unit_length(vectors: Float[Tensor, "*shape d"], short: float = SHORT_LATENT) -> Float[Tensor, "*shape d"]:
    """``z / |z|``, a zero vector unchanged; the gradient is as if no vector were shorter than ``short``.

    The Jacobian of ``z / |z|`` is as large as ``1 / |z|``: a single latent near zero would drown the rest of a batch.
    Vectors that are shorter have the gradient of ``z / short``. No value changes.

    Args:
        vectors: Any vectors.
        short: Shorter vectors get the gradient of this length.
    """
    unit = F.normalize(vectors, dim=-1)
    is_short = vectors.detach().norm(dim=-1, keepdim=True) < short
    return torch.where(is_short, straight_through(unit, vectors / short), unit)
