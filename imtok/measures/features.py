"""Distances between originals and reconstructions in the features of a net: rFID, FDD, KID, inception score."""

import warnings
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from typing_extensions import override

from imtok.distributed import from_main
from imtok.errors import InputError
from imtok.extractors.base import Extractor, Features
from imtok.measures.base import Found, Measure, Number, Seen
from imtok.measures.frechet import FeatureStatistics, FrechetDistance, Gaussian
from imtok.measures.inception_score import InceptionScore
from imtok.measures.inference import Size
from imtok.measures.kid import KID, kernel_distance, kernel_distances
from imtok.measures.protocol import Protocol
from imtok.measures.references import ReferenceKey, load_reference, save_reference
from imtok.measures.rows import FeatureRows
from imtok.tokenizer import Tokenizer

SUBSET = 1000
SAME_PASS = "originals of the same pass"
_NO_CLASSES = "the net has no classes"


class Net:
    """An extractor, what protocol feeds it, and the statistics of the originals that all distances share.

    Args:
        extractor: The net, on its device.
        protocol: What reconstructions go through before it.
        device: Where float64 sums are kept.
        reference: Statistics to compare with; None = those of the originals of the same pass.
        reference_name: What the statistics are of, by hash.
    """

    def __init__(
        self,
        extractor: Extractor,
        protocol: Protocol,
        device: torch.device,
        reference: Gaussian | None = None,
        reference_name: str = SAME_PASS,
    ) -> None:
        self.extractor, self.protocol, self.device = extractor, protocol, device
        self.originals = FeatureStatistics(extractor.dim).to(device)
        self.stored, self.reference_name = reference, reference_name
        self.cache: tuple[Path, ReferenceKey] | None = None
        self._batch: Any = None
        self._features: Features | None = None

    @property
    def at(self) -> torch.device:
        """Where the net computes."""
        tensors = chain(self.extractor.parameters(), self.extractor.buffers())
        return next((tensor.device for tensor in tensors), self.device)

    @property
    def reference(self) -> Gaussian | FeatureStatistics:
        """The other side of every Fréchet distance."""
        return self.stored if self.stored is not None else self.originals

    @property
    def name(self) -> str:
        """Of the distance between originals and reconstructions."""
        distance = self.extractor.distance
        return f"r{distance}" if distance.startswith("fid_") else distance

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the numbers, beside the images."""
        return {
            "preset": self.protocol.title,
            "rounding": self.protocol.rounding,
            "extractor": self.extractor.name,
            "extractor_hash": self.extractor.hash[:16],
            "reference": self.reference_name,
        }

    def use_cache(self, folder: Path, key: ReferenceKey) -> None:
        """Take statistics of the originals from a folder; where they are not there yet, keep them there afterwards.

        Raises:
            InputError: If the file there is damaged, or no file can be kept there.
        """
        path = key.path(folder)
        if not folder.is_dir():
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"cache={folder} cannot be a folder ({error.strerror}); give another") from None
        if path.exists():
            self.stored = load_reference(path, key).to(self.device)
        else:
            self.cache = (path, key)

    def keep(self) -> None:
        """Write the statistics of the originals, once all are counted in. Called on every rank."""
        if self.cache is not None:
            (path, key), statistics = self.cache, self.originals.compute()
            try:
                from_main(lambda: save_reference(path, statistics, key))
            except OSError as error:  # a full disk must not cost the numbers of this pass
                warnings.warn(f"cache: {path} could not be written ({error.strerror})", stacklevel=2)

    def frechet(self) -> FrechetDistance:
        """A distance to the reference, of nothing so far."""
        return FrechetDistance(self.extractor.dim, self.reference).to(self.device)

    def __call__(self, image: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"]) -> Features:
        """Features of levels from 0 to 255."""
        return self.extractor(image)

    def of_originals(self, seen: Seen) -> Features:
        """Features of a batch's originals, extracted once and counted in once."""
        if self._features is None or self._batch is not seen:
            self._features, self._batch = self(seen.target), seen
            self.originals.update(self._features.features.to(self.device))
        return self._features


class FeatureMeasure(Measure):
    """rFID and its kin over one net.

    Args:
        net: The net.
        names: Some of "rfid", "kid", "is".
    """

    def __init__(self, net: Net, names: Sequence[str]) -> None:
        self.net, self.names = net, tuple(names)
        dim = net.extractor.dim
        self.distance = net.frechet()
        self.rows, self.others = FeatureRows(dim), FeatureRows(dim)
        # asked of the net now: a rank may get no image at all, and must gather all the same
        logits = net(torch.zeros(1, 3, 32, 32, dtype=torch.uint8, device=net.at)).logits if "is" in names else None
        self.score = InceptionScore(logits.shape[1], net.protocol.splits) if logits is not None else None

    @override
    def missing(self, tokenizer: Tokenizer, size: Size) -> dict[str, str]:
        return {"is": _NO_CLASSES} if "is" in self.names and self.score is None else {}

    @override
    def update(self, seen: Seen) -> None:
        if self.net.stored is None or "kid" in self.names:
            originals = self.net.of_originals(seen)
            if "kid" in self.names:
                self.others.update(originals.features.cpu(), seen.batch.index)
        found = self.net(self.net.protocol.levels(seen.reconstruction.image))
        self.distance.update(found.features.to(self.net.device))
        if "kid" in self.names:
            self.rows.update(found.features.cpu(), seen.batch.index)
        if self.score is not None and found.logits is not None:
            self.score.update(found.logits.cpu(), seen.batch.index)

    @override
    def numbers(self, size: Size) -> dict[str, bool | None]:
        found, name = dict[str, bool | None](), self.net.extractor.name
        if "rfid" in self.names:
            found[self.net.name] = FrechetDistance.higher_is_better
        if "kid" in self.names:
            found |= {f"kid_{name}": KID.higher_is_better}
        if self.score is not None:
            found |= {f"inception_score_{name}": InceptionScore.higher_is_better}
        return found

    @override
    def finish(self) -> Found:
        found, name = Found(), self.net.extractor.name
        self.net.keep()
        if "rfid" in self.names:
            value = float(self.distance.compute().item())
            found.numbers[self.net.name] = Number(value, FrechetDistance.convention, self.net.facts)
        if "kid" in self.names:
            found.add(self._kid(name))
        if "is" in self.names:
            found.add(self._score(name))
        return found

    def _kid(self, name: str) -> Found:
        rows, others = self.rows.compute(), self.others.compute()
        try:
            if len(rows) >= SUBSET:
                distances = kernel_distances(rows, others, subsets=100, subset_size=SUBSET, seed=2020)
                values = {"kid": float(np.mean(distances)), "kid_std": float(np.std(distances))}
                how = f"{KID.convention} of {SUBSET}"
            else:
                values = {"kid": kernel_distance(rows, others)}
                how = "unbiased, polynomial kernel of degree 3, over all images"
        except InputError as error:
            return Found(absent={f"kid_{name}": str(error)})
        facts = {**self.net.facts, "reference": SAME_PASS}  # stored statistics are no vectors
        return Found({f"{key}_{name}": Number(value, how, facts) for key, value in values.items()})

    def _score(self, name: str) -> Found:
        if self.score is None:
            return Found(absent={f"inception_score_{name}": _NO_CLASSES})
        try:
            values = self.score.compute()
        except InputError as error:
            return Found(absent={f"inception_score_{name}": str(error)})
        if self.score.splits == 1:
            del values["inception_score_std"]
        how = f"{InceptionScore.convention}, splits: {self.score.splits}"
        facts = {key: value for key, value in self.net.facts.items() if key != "reference"}
        return Found({f"{key}_{name}": Number(value, how, facts) for key, value in values.items()})
