"""How often a classifier says the same of an original and of its reconstruction."""

from collections.abc import Sequence

import torch
from typing_extensions import override

from imtok.distributed import sum_over_ranks
from imtok.errors import InputError
from imtok.extractors.base import Extractor
from imtok.extractors.inception import Inception
from imtok.measures.base import Bench, EvaluationBatch, MeasureResult, Number, Quantity
from imtok.measures.features import NetMeasure
from imtok.measures.inference import Size
from imtok.tokenizer import Tokenizer

LABELS = ("other", "same")
_TOP1 = "top-1 of the net of the extractor"
_NO_CLASSES = "the net has no classes"


class AgreementMeasure(NetMeasure):
    """The share of images to whose original and reconstruction a net gives the same class, and how often it is right.

    One-D-Piece (arXiv 2501.10064) classifies reconstructions by ConvNeXt-B. The agreement needs no labels. The accuracy
    on reconstructions means something beside that on the originals alone.

    Args:
        extractor: A net with classes; None = the protocol's.
        labels: "same" = the labels of the data are the classes of the net, in its order, as those of ImageNet are;
            "other" = they are something else, and no accuracy is computed.

    Raises:
        ValueError: If ``labels`` is neither.
    """

    quantities = (
        Quantity(
            "agreement_{net}",
            unit="share of images",
            convention=f"{_TOP1} on the original and on the reconstruction",
            higher_is_better=True,
            meaning="How often a classifier gives an image and its reconstruction the same class.",
        ),
        Quantity(
            "accuracy_originals_{net}",
            unit="share of images",
            convention=f"{_TOP1}, over images with a label",
            meaning="How often a classifier is right on the originals: what reconstructions can be measured by.",
        ),
        Quantity(
            "accuracy_reconstructions_{net}",
            unit="share of images",
            convention=f"{_TOP1}, over images with a label",
            higher_is_better=True,
            meaning="How often a classifier is right on the reconstructions.",
        ),
    )
    any_size = True

    def __init__(self, extractor: Extractor | None = None, labels: str = "other") -> None:
        if labels not in LABELS:
            raise ValueError(f"labels must be one of {', '.join(LABELS)}, got {labels!r}")
        super().__init__(extractor)
        self.labels = labels
        self.counts = torch.zeros(5, dtype=torch.int64)  # images, agreed, labelled, right originals, right others
        self.classes = 0

    @override
    def set_up(self, bench: Bench) -> None:
        super().set_up(bench)
        if self.labels == "same" and isinstance(self.net.extractor, Inception):
            raise InputError(
                f"measure.{self.key}.labels=same: {self.net.extractor.name} has 1,008 classes in an order of its own, "
                "so no label of the data is one of them; give another extractor, or labels=other"
            )
        logits = self.net(torch.zeros(1, 3, 32, 32, dtype=torch.uint8, device=self.net.at)).logits
        self.classes = 0 if logits is None else logits.shape[1]

    @override
    def missing(self, tokenizer: Tokenizer, size: Size) -> dict[str, str]:
        return {} if self.classes else {self.key: _NO_CLASSES}

    @override
    def update(self, seen: EvaluationBatch) -> None:
        originals, made = self.net.of_originals(seen).logits, self.net.of_reconstructions(seen).logits
        if originals is None or made is None:
            return
        expected, found = originals.argmax(1).cpu(), made.argmax(1).cpu()
        labels = seen.batch.label.cpu()
        known = labels >= 0 if self.labels == "same" else torch.zeros_like(labels, dtype=torch.bool)
        strange = known & (labels >= self.classes)
        if strange.any():
            row = int(strange.int().argmax())
            raise InputError(
                f"{seen.batch.key[row]}: its label {int(labels[row])} is none of the {self.classes} classes of "
                f"{self.net.extractor.name}; give measure.{self.key}.labels=other"
            )
        columns = (torch.ones_like(known), expected == found, known, known & (expected == labels))
        self.counts += torch.stack([*columns, known & (found == labels)]).sum(1)

    @override
    def numbers(self, size: Size) -> Sequence[Quantity]:
        name = self.net.extractor.name
        own = self.quantities if self.labels == "same" else self.quantities[:1]
        return [one.named(one.name.format(net=name)) for one in own] if self.classes else []

    @override
    def finish(self) -> MeasureResult:
        self.net.keep()
        names = [one.name.format(net=self.net.extractor.name) for one in self.quantities]
        images, agreed, labelled, *right = sum_over_ranks(self.counts).tolist()
        if not self.classes:
            return MeasureResult(absent={names[0]: _NO_CLASSES})
        facts = {key: value for key, value in self.net.facts.items() if key != "reference"}
        found = MeasureResult({names[0]: Number(agreed / images, facts=facts)})
        if self.labels == "same" and labelled:
            facts = {**facts, "labelled": labelled}
            for name, count in zip(names[1:], right, strict=True):
                found.numbers[name] = Number(count / labelled, facts=facts)
        elif self.labels == "same":
            found.absent |= dict.fromkeys(names[1:], "no image has a label")
        return found
