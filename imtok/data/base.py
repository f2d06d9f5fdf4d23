"""The contract that every kind of data keeps."""

from abc import ABC, abstractmethod

from imtok.data.images import ImageSet
from imtok.data.stream import ImageStream

Images = ImageSet | ImageStream
SPLITS = ("train", "val", "all")


class Data(ABC):
    """Where images come from: what ``data=...`` in a config builds."""

    @property
    def holds_out(self) -> bool:
        """Whether it has held-out images of its own, and not a part of the others that is chosen here."""
        return True

    @abstractmethod
    def train(self, image_size: int, seed: int) -> Images:
        """Images to train on: random crops, bad images replaced.

        Args:
            image_size: Side of the images, in pixels.
            seed: The run's seed.

        Raises:
            InputError: If there is nothing to read.
        """

    @abstractmethod
    def evaluation(self, image_size: int, split: str | None = None) -> Images:
        """Images to measure or export: nothing random, bad images left out.

        Args:
            image_size: Side of the images, in pixels.
            split: "val" (held out of training), "train" or "all"; None = what suits the data.

        Raises:
            ValueError: If there is no such split.
            InputError: If there is nothing to read.
        """

    def validation(self, image_size: int) -> Images:
        """The held-out images, measured at the end of training."""
        return self.evaluation(image_size, "val")


def check_split(split: str) -> None:
    """Raise ValueError unless there is such a split."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
