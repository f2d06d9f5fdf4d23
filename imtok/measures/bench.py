"""What all measures of an evaluation share: the tokenizer, where it is computed, and nets that see each image once."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from imtok.errors import InputError, MissingWeightsError
from imtok.extractors.base import Extractor
from imtok.measures.chosen import require_statistics
from imtok.measures.frechet import FeatureGaussian
from imtok.measures.net import SAME_PASS, Net
from imtok.measures.protocol import Protocol
from imtok.measures.references import ReferenceKey
from imtok.tokenizer import Tokenizer


@dataclass
class Bench:
    """Where measures are set up.

    Attributes:
        tokenizer: What is measured.
        protocol: Of everything that an extractor sees.
        device: Where nets compute.
        exact: Where float64 sums are kept.
        seed: Of everything that is drawn.
        processes: That share the images.
        reference: Statistics for Fréchet distances of the protocol's net; None = the originals of the same pass.
        reference_name: What these statistics are of, by hash.
        cache: A folder for statistics of originals; None = they are computed in every pass.
        data: What the originals are, as a cache must know before it reads them; empty = nothing is cached.
    """

    tokenizer: Tokenizer
    protocol: Protocol
    device: torch.device
    exact: torch.device
    seed: int = 0
    processes: int = 1
    reference: FeatureGaussian | None = None
    reference_name: str = SAME_PASS
    cache: Path | None = None
    data: str = ""
    shared: Net | None = field(default=None, init=False)  # the protocol's, once a measure took it
    _missing: str = field(default="", init=False)
    _others: dict[str, Net] = field(default_factory=dict, init=False)

    @property
    def asked(self) -> bool:
        """Whether a measure wanted the protocol's net, be it there or not."""
        return self.shared is not None or bool(self._missing)

    def net(self, extractor: Extractor | None = None) -> Net:
        """An extractor with what it has seen; one object for all measures that ask for the same.

        Args:
            extractor: None = the protocol's.

        Raises:
            MissingWeightsError: If the protocol's weights are not on this machine.
            InputError: If a file that was named is another one or damaged.
        """
        if extractor is not None:
            # such a net has one way of resizing: of the protocol, crop and rounding count
            protocol = Protocol("adm", crop=self.protocol.crop, rounding=self.protocol.rounding)
            made = Net(extractor.to(self.device), protocol, self.exact)
            return self._others.setdefault(extractor.hash, made)
        if self._missing:
            raise MissingWeightsError(self._missing)
        if self.shared is None:
            try:
                self.shared = self._of_protocol()
            except InputError as error:
                damaged = self.cache is not None and str(self.cache) in str(error)
                if self.protocol.refuses(error) or self.reference is not None or damaged:
                    raise
                self._missing = str(error)
                raise MissingWeightsError(self._missing) from None
        return self.shared

    def _of_protocol(self) -> Net:
        extractor = self.protocol.build().to(self.device)
        if self.reference is not None:
            require_statistics(extractor, len(self.reference.mean), "reference")
        net = Net(extractor, self.protocol, self.exact, self.reference, self.reference_name)
        if self.reference is None and self.cache is not None and self.data:
            net.use_cache(self.cache, ReferenceKey(self.data, str(self.protocol.crop), extractor.hash))
        return net
