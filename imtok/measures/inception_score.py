"""Inception score (Salimans et al., arXiv 1606.03498)."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.errors import InputError
from imtok.measures.rows import RowMetric


def inception_scores(logits: Float[Tensor, "n k"], splits: int) -> list[float]:
    """``exp`` of the mean divergence of each image's classes from those of its split, in float64.

    Args:
        logits: A row per image, already in the order in which they are split.
        splits: How many parts, which differ by at most one image.

    Raises:
        InputError: If there are fewer images than splits.
    """
    count = len(logits)
    if count < splits or not count:
        raise InputError(f"an inception score over {splits} splits needs at least as many images, got {count}")
    return [_score(logits[split * count // splits : (split + 1) * count // splits]) for split in range(splits)]


def inception_scores_in_order(logits: Float[Tensor, "n k"], size: int) -> list[float]:
    """As ADM's evaluator takes them: of one part of ``size`` images after the other, the last as large as it is.

    Args:
        logits: A row per image, in the order of the images.
        size: Images in a part, at least 1.

    Raises:
        InputError: If there are no images.
    """
    if not len(logits):
        raise InputError("an inception score needs at least one image, got none")
    return [_score(part) for part in logits.split(size)]


def _score(logits: Float[Tensor, "n k"]) -> float:
    logarithm = logits.double().log_softmax(1)
    together = torch.logsumexp(logarithm, 0) - np.log(len(logits))
    # where a probability underflows to 0, its logarithm is still finite
    return (logarithm.exp() * (logarithm - together)).sum(1).mean().exp().item()


class InceptionScore(RowMetric):
    """Inception score: 1 if all images look alike or like nothing, up to the number of classes.

    ``inception_score`` is the mean over splits and ``inception_score_std`` their standard deviation (divisor: their
    number). It grows with the images per split: compare only values of as many.

    Args:
        classes: Length of a vector of logits.
        splits: Into how many parts, at least 1; ten is what is published.
        seed: Of the shuffle before splitting, as torch-fidelity's; None = in the order of the data set, as ADM's
            evaluator, which is misleading where images are ordered by class.
        **settings: Of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If ``splits`` is not positive.
        InputError: In ``compute``, if there are fewer images than splits.

    Example:
        >>> metric = InceptionScore(3, splits=1)
        >>> metric.update(torch.eye(3) * 1000)  # surely one class each
        >>> round(metric.compute()["inception_score"], 6)
        3.0
    """

    higher_is_better = True
    convention = "natural logarithm, mean over splits, logits without bias"

    def __init__(self, classes: int, splits: int = 10, seed: int | None = 2020, **settings: Any) -> None:
        super().__init__(classes, **settings)
        if splits < 1:
            raise ValueError(f"splits must be at least 1, got {splits}")
        self.splits, self.seed = splits, seed

    @override
    def compute(self) -> dict[str, float]:
        """``inception_score`` and ``inception_score_std``."""
        logits = self.all_rows()
        if self.seed is not None:
            order = np.random.RandomState(self.seed).permutation(len(logits))
            logits = logits[torch.from_numpy(order).to(logits.device)]
        scores = inception_scores(logits, self.splits)
        return {"inception_score": float(np.mean(scores)), "inception_score_std": float(np.std(scores))}
