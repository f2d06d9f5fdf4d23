"""Contrasts between two nets that learn their own temperature: CLIP's (2103.00020) and SigLIP's (2303.15343)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.losses.alignment.distances import SCALE_LIMIT, Contrast, cross_entropies


class LearnedContrastive(Contrast):
    """Which text is it, and which image? Mean of the two cross entropies among all pairs of all ranks (CLIP).

    Scores are cosines times ``exp(log_scale)``, at most 100, as in CLIP. There the scale is set back after each step,
    here it is cut off where it is used.

    Args:
        temperature: At the start; 1 / scale.

    Raises:
        ValueError: If the temperature is below 0.01.

    Example:
        >>> LearnedContrastive(temperature=0.05)(torch.eye(2), torch.eye(2)).max() < 1e-8
        tensor(True)
    """

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        if not temperature >= 1 / SCALE_LIMIT:
            raise ValueError(f"temperature must be at least {1 / SCALE_LIMIT}, got {temperature}")
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    @override
    def pairwise(self, features: Float[Tensor, "m k"], wanted: Float[Tensor, "m k"]) -> Float[Tensor, " m"]:
        scale = self.log_scale.to(features.dtype).clamp(max=math.log(SCALE_LIMIT)).exp()
        return cross_entropies(scale * features @ wanted.T, symmetric=True)


class SigmoidContrastive(Contrast):
    """Do image and text belong together? Asked of every pair of the global batch by itself (SigLIP).

    The loss of image ``i`` is ``-sum_j log sigmoid(y_ij (exp(log_scale) cos_ij + bias))``, where ``y_ij`` is 1 for its
    own text and -1 for any other. The mean over images is SigLIP's loss.

    Args:
        temperature: At the start; 1 / scale.
        bias: At the start, so that the many pairs that do not belong together weigh little at first.

    Raises:
        ValueError: If the temperature is not positive.

    Example:
        >>> SigmoidContrastive(temperature=0.05, bias=-10.0)(torch.eye(2), torch.eye(2)).max() < 1e-3
        tensor(True)
    """

    def __init__(self, temperature: float = 0.1, bias: float = -10.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    @override
    def pairwise(self, features: Float[Tensor, "m k"], wanted: Float[Tensor, "m k"]) -> Float[Tensor, " m"]:
        scores = self.log_scale.to(features.dtype).exp() * features @ wanted.T + self.bias.to(features.dtype)
        together = 2 * torch.eye(len(scores), device=scores.device, dtype=scores.dtype) - 1
        return -F.logsigmoid(together * scores).sum(1)
