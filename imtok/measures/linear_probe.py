"""What a linear classifier finds in pooled codes and pooled latents of labelled images."""

import hashlib

import numpy as np
import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float, Int64
from typing_extensions import override

from imtok.distributed import gather_values
from imtok.measures.base import Found, Measure, Number, Quantity, Seen

_DECAY = 0.5  # scikit-learn's C = 1
_CONVENTION = "top-1 of logistic regression on standardised means over tokens; every fifth image by name is held out"


class ProbeMeasure(Measure):
    """Accuracy of a linear probe on each image's mean code and mean latent (before quantization)."""

    quantities = tuple(
        Quantity(
            f"probe_{where}",
            f"Probe of {where}",
            "share of images",
            _CONVENTION,
            higher_is_better=True,
            meaning=f"How often a linear classifier on the mean of {whose} {where} is right.",
        )
        for where, whose in (("codes", "an image's"), ("latents", "its"))
    )
    taps = ("encoder",)

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, np.ndarray, np.ndarray]] = []

    @override
    def update(self, seen: Seen) -> None:
        pooled = [
            reduce(part.float(), "b n d -> b d", "mean").cpu().numpy()
            for part in (seen.reconstruction.quantized.latents, seen.reconstruction.taps["encoder"])
        ]
        for row, (key, label) in enumerate(zip(seen.batch.key, seen.batch.label.tolist(), strict=True)):
            if label >= 0:
                self.rows.append((key, label, pooled[0][row].copy(), pooled[1][row].copy()))

    @override
    def finish(self) -> Found:
        rows = sorted((row for own in gather_values(self.rows) for row in own), key=lambda row: row[0])
        held_out = np.array([hashlib.sha256(key.encode()).digest()[0] % 5 == 0 for key, *_ in rows], dtype=bool)
        labels = np.array([label for _, label, *_ in rows], dtype=np.int64)
        if len(np.unique(labels[~held_out])) < 2 or not held_out.any():
            return Found(absent={self.key: "a probe needs labelled images of two classes at least, some held out"})
        facts = {"images": len(rows), "classes": len(np.unique(labels))}
        found = Found(
            tables={"probe": {**facts, "chance": float(np.bincount(labels[held_out]).max() / held_out.sum())}}
        )
        for place, name in ((2, "probe_codes"), (3, "probe_latents")):
            features = np.stack([row[place] for row in rows])
            value = probe(features[~held_out], labels[~held_out], features[held_out], labels[held_out])
            found.numbers[name] = Number(value, _CONVENTION, facts)
        return found


def probe(
    features: Float[np.ndarray, "n d"],
    labels: Int64[np.ndarray, " n"],
    others: Float[np.ndarray, "m d"],
    answers: Int64[np.ndarray, " m"],
) -> float:
    """Accuracy on ``others`` of a logistic regression fitted to ``features``.

    Example:
        >>> probe(np.array([[0.0], [0.1], [1.0], [0.9]]), np.array([0, 0, 1, 1]), np.array([[0.2]]), np.array([0]))
        1.0
    """
    mean, deviation = features.mean(0), features.std(0) + 1e-8
    inputs, tests = (torch.from_numpy((part - mean) / deviation).double() for part in (features, others))
    classes, targets = np.unique(labels, return_inverse=True)
    weight = torch.zeros(inputs.shape[1] + 1, len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        scores = inputs @ weight[1:] + weight[0]
        loss = F.cross_entropy(scores, torch.from_numpy(targets)) + _DECAY / len(inputs) * weight[1:].square().sum()
        loss.backward()
        return loss.item()

    with torch.enable_grad():
        optimizer.step(closure)
    found = (tests @ weight[1:] + weight[0]).argmax(1)
    return float(np.mean(classes[found.numpy()] == answers))
