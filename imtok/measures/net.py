"""An extractor with the statistics of the originals that it has seen, which all distances in its features share."""

import warnings
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Real
from torch import Tensor

from imtok.distributed import from_main
from imtok.errors import InputError
from imtok.extractors.base import Extractor, Features
from imtok.measures.found import EvaluationBatch
from imtok.measures.frechet import FeatureGaussian, FeatureStatistics, FrechetDistance
from imtok.measures.protocol import Protocol
from imtok.measures.references import ReferenceKey, load_reference, save_reference
from imtok.pixels import rgb_levels

SAME_PASS = "originals of the same pass"


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
        reference: FeatureGaussian | None = None,
        reference_name: str = SAME_PASS,
    ) -> None:
        self.extractor, self.protocol, self.device = extractor, protocol, device
        self.originals = FeatureStatistics(extractor.dim).to(device)
        self.stored, self.reference_name = reference, reference_name
        self.cache: tuple[Path, ReferenceKey] | None = None
        self._batch: Any = None
        self._seen = dict[str, Features]()

    @property
    def at(self) -> torch.device:
        """Where the net computes."""
        tensors = chain(self.extractor.parameters(), self.extractor.buffers())
        return next((tensor.device for tensor in tensors), self.device)

    @property
    def reference(self) -> FeatureGaussian | FeatureStatistics:
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
            (path, key), self.cache, statistics = self.cache, None, self.originals.compute()
            try:
                from_main(lambda: save_reference(path, statistics, key))
            except OSError as error:  # a full disk must not cost the numbers of this pass
                warnings.warn(f"cache: {path} could not be written ({error.strerror})", stacklevel=2)

    def frechet(self) -> FrechetDistance:
        """A distance to the reference, of nothing so far."""
        return FrechetDistance(self.extractor.dim, self.reference).to(self.device)

    def __call__(self, image: Real[Tensor, "b c h w"]) -> Features:
        """Features of levels from 0 to 255, of one channel and of alpha as RGB."""
        return self.extractor(image if image.shape[1] == 3 else rgb_levels(image))

    def of_originals(self, seen: EvaluationBatch) -> Features:
        """Features of a batch's originals, extracted once and counted in once."""
        known = self._of(seen)
        if "originals" not in known:
            known["originals"] = self(seen.target)
            self.originals.update(known["originals"].features.to(self.device))
        return known["originals"]

    def of_reconstructions(self, seen: EvaluationBatch) -> Features:
        """Features of a batch's reconstructions, as the protocol rounds them, extracted once."""
        known = self._of(seen)
        if "reconstructions" not in known:
            known["reconstructions"] = self(self.protocol.levels(seen.reconstruction.image))
        return known["reconstructions"]

    def _of(self, seen: EvaluationBatch) -> dict[str, Features]:
        if self._batch is not seen:
            self._batch, self._seen = seen, {}
        return self._seen
