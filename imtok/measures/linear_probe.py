"""What a linear classifier finds in pooled codes, latents and encoder features of labelled images."""

import hashlib
from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from imtok.distributed import gather_values
from imtok.errors import InputError
from imtok.measures.base import Bench, EvaluationBatch, Measure, MeasureResult, Number, Quantity
from imtok.measures.inference import Size
from imtok.nn.taps import INPUT
from imtok.tokenizer import Tokenizer

_DECAY = 0.5  # scikit-learn's C = 1
_LAST = "encoder.project"
_CONVENTION = "top-1 of logistic regression on standardised means over tokens; every fifth image by name is held out"


def _quantity(where: str, whose: str, what: str) -> Quantity:
    return Quantity(
        f"probe_{where}",
        f"Probe of {what}",
        "share of images",
        _CONVENTION,
        higher_is_better=True,
        meaning=f"How often a linear classifier on the mean of {whose} {what} is right.",
    )


_CODES = (_quantity("codes", "an image's", "codes"), _quantity("latents", "its", "latents"))
_ENCODER = _quantity("encoder", "an image's", "encoder features")


class ProbeMeasure(Measure):
    """Accuracy of a linear probe on each image's mean code, mean latent (before quantization) and encoder features.

    GigaTok (arXiv 2504.08736) and TiTok (arXiv 2406.07550) probe the encoder's features as MAE (arXiv 2111.06377) does:
    their mean goes through batch norm without weights and a linear layer. Here the statistics of the norm are those of
    all training images, and the layer is fitted to its optimum, by L-BFGS with scikit-learn's default penalty.

    Args:
        features: "encoder" = features of the encoder as well: what its last map, which makes latents of them, takes;
            or the name of a sub-module, "encoder.trunk.blocks.6", for what it makes; None = codes and latents alone.
    """

    quantities = (*_CODES, _ENCODER)
    taps = ("encoder",)

    def __init__(self, features: str | None = None) -> None:
        self.features = features
        self.quantities = (*_CODES, _ENCODER) if features else _CODES
        self.rows: list[tuple[str, int, list[np.ndarray]]] = []

    @override
    def set_up(self, bench: Bench) -> None:
        if self.features:
            self.taps = ("encoder", _tap(self.features, bench.tokenizer, f"measure.{self.key}.features"))

    @override
    def start(self, tokenizer: Tokenizer, size: Size) -> None:
        if self.features:
            parameter = tokenizer.decoder.last_layer
            blank = torch.zeros(1, tokenizer.channels, *size, dtype=parameter.dtype, device=parameter.device)
            try:
                taps = tokenizer(blank, self.taps, condition=tokenizer.condition_for(1)).taps
            except ValueError as error:
                raise InputError(f"measure.{self.key}.features={self.features}: {error}; name another") from None
            shape = None if self.taps[1] not in taps else tuple(taps[self.taps[1]].shape)
            if shape is None or len(shape) not in (3, 4) or shape[0] != 1:
                raise InputError(
                    f"measure.{self.key}.features={self.features} gives {'nothing' if shape is None else shape} of an "
                    "image, and no vectors of tokens or of places; name another sub-module"
                )

    @override
    def update(self, seen: EvaluationBatch) -> None:
        parts = [seen.reconstruction.quantized.latents, *(seen.reconstruction.taps[name] for name in self.taps)]
        pooled = [_pooled(part).cpu().numpy() for part in parts]
        for row, (key, label) in enumerate(zip(seen.batch.key, seen.batch.label.tolist(), strict=True)):
            if label >= 0:
                self.rows.append((key, label, [part[row].copy() for part in pooled]))

    @override
    def numbers(self, size: Size) -> Sequence[Quantity]:
        return self.quantities

    @override
    def finish(self) -> MeasureResult:
        rows = sorted((row for own in gather_values(self.rows) for row in own), key=lambda row: row[0])
        held_out = np.array([hashlib.sha256(key.encode()).digest()[0] % 5 == 0 for key, *_ in rows], dtype=bool)
        labels = np.array([label for _, label, _ in rows], dtype=np.int64)
        if len(np.unique(labels[~held_out])) < 2 or not held_out.any():
            return MeasureResult(
                absent={self.key: "a probe needs labelled images of two classes at least, some held out"}
            )
        facts = {"images": len(rows), "classes": len(np.unique(labels))}
        found = MeasureResult(
            tables={"probe": {**facts, "chance": float(np.bincount(labels[held_out]).max() / held_out.sum())}}
        )
        for place, quantity in enumerate(self.quantities):
            features = np.stack([parts[place] for *_, parts in rows])
            value = probe(features[~held_out], labels[~held_out], features[held_out], labels[held_out])
            own = {"features": self.taps[1]} if quantity is _ENCODER else {}
            found.numbers[quantity.name] = Number(value, _CONVENTION, {**facts, **own})
        return found


def _tap(features: str, tokenizer: nn.Module, key: str) -> str:
    """The name under which a tokenizer's features are noted; InputError if there are none of that name."""
    known = [name for name, _ in tokenizer.named_modules() if name.startswith("encoder.")]
    if features != "encoder":
        if features.removesuffix(INPUT) in known:
            return features
        close = get_close_matches(features, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known[:8])}, ..."
        raise InputError(f"{key} must be encoder or a sub-module of the encoder, got {features}; {hint}")
    if _LAST not in known:
        kind = type(tokenizer.get_submodule("encoder")).__name__
        raise InputError(
            f"{key}=encoder: {kind} has no last map of the name {_LAST}; give a sub-module instead, one of "
            f"{', '.join(known[:8])}, ..."
        )
    return _LAST + INPUT


def _pooled(part: Tensor) -> Float[Tensor, "b d"]:
    """The mean over tokens, or over the places of a map."""
    return reduce(part.float(), "b n d -> b d" if part.ndim == 3 else "b d h w -> b d", "mean")


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
