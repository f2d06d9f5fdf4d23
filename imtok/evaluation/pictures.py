"""The images that a report shows, chosen in one pass over a data set whose length nobody knows."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from jaxtyping import UInt8
from torch import Tensor


@dataclass
class Pictures:
    """Images spread evenly over a data set of unknown length, and their reconstructions.

    Every ``stride``-th image is kept; whenever there are twice as many as wanted, every other one goes.

    Attributes:
        most: How many are wanted.
    """

    most: int
    keys: list[str] = field(default_factory=list)
    originals: list[UInt8[Tensor, "3 h w"]] = field(default_factory=list)
    reconstructions: list[UInt8[Tensor, "3 h w"]] = field(default_factory=list)
    stride: int = 1
    seen: int = 0

    def add(
        self, keys: list[str], originals: UInt8[Tensor, "b 3 h w"], reconstructions: UInt8[Tensor, "b 3 h w"]
    ) -> None:
        """Go through a batch."""
        for key, original, reconstruction in zip(keys, originals, reconstructions, strict=True):
            if self.most and self.seen % self.stride == 0:
                self.keys.append(key)
                self.originals.append(original.cpu().clone())
                self.reconstructions.append(reconstruction.cpu().clone())
                if len(self.keys) == 2 * self.most:
                    self._take(range(0, 2 * self.most, 2))
                    self.stride *= 2
            self.seen += 1

    def finish(self) -> "Pictures":
        """No more than ``most`` of them, evenly."""
        count = len(self.keys)
        if count > self.most:
            self._take([index * count // self.most for index in range(self.most)])
        return self

    def _take(self, chosen: Iterable[int]) -> None:
        chosen = list(chosen)
        self.keys = [self.keys[index] for index in chosen]
        self.originals = [self.originals[index] for index in chosen]
        self.reconstructions = [self.reconstructions[index] for index in chosen]
