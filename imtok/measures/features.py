"""Distances between originals and reconstructions in the features of a net: rFID, FDD, KID, inception score."""

from collections.abc import Sequence

import numpy as np
import torch
from typing_extensions import override

from imtok.errors import InputError
from imtok.extractors.base import Extractor
from imtok.measures.base import Bench, EvaluationBatch, Measure, MeasureResult, Number, Quantity
from imtok.measures.frechet import FrechetDistance
from imtok.measures.inception_score import InceptionScore
from imtok.measures.inference import Size
from imtok.measures.kid import KID, kernel_distance, kernel_distances
from imtok.measures.net import SAME_PASS, Net
from imtok.measures.rows import FeatureRows
from imtok.tokenizer import Tokenizer

SUBSET = 1000
_NO_CLASSES = "the net has no classes"
_DISTANCE = "how far the features of reconstructions are from those of originals, as a distance of two normal laws"


class NetMeasure(Measure):
    """What is measured in the features of a net, which extracts those of each image once for all that share it.

    Args:
        extractor: The net; None = the protocol's.
    """

    net: Net

    def __init__(self, extractor: Extractor | None = None) -> None:
        self.extractor = extractor

    @override
    def set_up(self, bench: Bench) -> None:
        self.net = bench.net(self.extractor)


class FrechetMeasure(NetMeasure):
    """The Fréchet distance: rFID in the features of the one net that published values are of, ``fd_...`` in others."""

    quantities = (
        Quantity(
            "rfid_{net}",
            convention=FrechetDistance.convention,
            higher_is_better=FrechetDistance.higher_is_better,
            meaning=f"Fréchet inception distance of reconstructions: {_DISTANCE}. 0 means none.",
        ),
        Quantity(
            "fd_{net}",
            convention=FrechetDistance.convention,
            higher_is_better=FrechetDistance.higher_is_better,
            meaning=f"A Fréchet distance in the features of another net: {_DISTANCE}. 0 means none.",
        ),
    )

    @override
    def set_up(self, bench: Bench) -> None:
        super().set_up(bench)
        self.distance = self.net.frechet()

    @override
    def update(self, seen: EvaluationBatch) -> None:
        if self.net.stored is None:
            self.net.of_originals(seen)
        self.distance.update(self.net.of_reconstructions(seen).features.to(self.net.device))

    @override
    def numbers(self, size: Size) -> Sequence[Quantity]:
        name = self.net.name
        return [self.quantities[0 if name.startswith("rfid_") else 1].named(name)]

    @override
    def finish(self) -> MeasureResult:
        self.net.keep()
        value = float(self.distance.compute().item())
        return MeasureResult({self.net.name: Number(value, FrechetDistance.convention, self.net.facts)})


class KernelMeasure(NetMeasure):
    """The kernel distance: over random subsets as published values are, or over all images where they are few."""

    quantities = (
        Quantity(
            "kid_{net}",
            convention=KID.convention,
            higher_is_better=KID.higher_is_better,
            meaning="A kernel distance between the features of reconstructions and of originals. 0 means none.",
        ),
        Quantity(
            "kid_std_{net}",
            convention=KID.convention,
            meaning="The standard deviation of the kernel distance over its subsets.",
        ),
    )

    @override
    def set_up(self, bench: Bench) -> None:
        super().set_up(bench)
        self.rows, self.others = FeatureRows(self.net.extractor.dim), FeatureRows(self.net.extractor.dim)

    @override
    def update(self, seen: EvaluationBatch) -> None:
        self.others.update(self.net.of_originals(seen).features.cpu(), seen.batch.index)
        self.rows.update(self.net.of_reconstructions(seen).features.cpu(), seen.batch.index)

    @override
    def numbers(self, size: Size) -> Sequence[Quantity]:
        return [self.quantities[0].named(f"kid_{self.net.extractor.name}")]

    @override
    def finish(self) -> MeasureResult:
        self.net.keep()
        rows, others, name = self.rows.compute(), self.others.compute(), self.net.extractor.name
        try:
            if len(rows) >= SUBSET:
                distances = kernel_distances(rows, others, subsets=100, subset_size=SUBSET, seed=2020)
                values = {"kid": float(np.mean(distances)), "kid_std": float(np.std(distances))}
                how = f"{KID.convention} of {SUBSET}"
            else:
                values = {"kid": kernel_distance(rows, others)}
                how = "unbiased, polynomial kernel of degree 3, over all images"
        except InputError as error:
            return MeasureResult(absent={f"kid_{name}": str(error)})
        facts = {**self.net.facts, "reference": SAME_PASS}  # stored statistics are no vectors
        return MeasureResult({f"{key}_{name}": Number(value, how, facts) for key, value in values.items()})


class InceptionScoreMeasure(NetMeasure):
    """The inception score of the reconstructions, over the parts that the protocol's evaluator takes."""

    quantities = (
        Quantity(
            "inception_score_{net}",
            convention=InceptionScore.convention,
            higher_is_better=InceptionScore.higher_is_better,
            meaning="How clear and how varied the classes are that a net sees in the reconstructions.",
        ),
        Quantity(
            "inception_score_std_{net}",
            convention=InceptionScore.convention,
            meaning="The standard deviation of the inception score over its parts.",
        ),
    )

    @override
    def set_up(self, bench: Bench) -> None:
        super().set_up(bench)
        # asked of the net now: a rank may get no image at all, and must gather all the same
        logits = self.net(torch.zeros(1, 3, 32, 32, dtype=torch.uint8, device=self.net.at)).logits
        self.score = InceptionScore(logits.shape[1], self.net.protocol.splits) if logits is not None else None

    @override
    def missing(self, tokenizer: Tokenizer, size: Size) -> dict[str, str]:
        return {self.key: _NO_CLASSES} if self.score is None else {}

    @override
    def update(self, seen: EvaluationBatch) -> None:
        logits = self.net.of_reconstructions(seen).logits
        if self.score is not None and logits is not None:
            self.score.update(logits.cpu(), seen.batch.index)

    @override
    def numbers(self, size: Size) -> Sequence[Quantity]:
        name = f"inception_score_{self.net.extractor.name}"
        return [self.quantities[0].named(name)] if self.score is not None else []

    @override
    def finish(self) -> MeasureResult:
        name = self.net.extractor.name
        if self.score is None:
            return MeasureResult(absent={f"inception_score_{name}": _NO_CLASSES})
        try:
            values = self.score.compute()
        except InputError as error:
            return MeasureResult(absent={f"inception_score_{name}": str(error)})
        if self.score.splits == 1:
            del values["inception_score_std"]
        how = f"{InceptionScore.convention}, splits: {self.score.splits}"
        facts = {key: value for key, value in self.net.facts.items() if key != "reference"}
        return MeasureResult({f"{key}_{name}": Number(value, how, facts) for key, value in values.items()})
