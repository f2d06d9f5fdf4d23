"""The contract that every kind of data keeps."""

from abc import ABC, abstractmethod

from imtok.data.contract import Images
from imtok.data.images import ImageSet
from imtok.errors import InputError

USUAL = ("train", "val", "all")
OF_TRAINING = ("augment", "buckets")  # keys of the section data that only training reads, for any kind of data
OF_ANY = (*OF_TRAINING, "boxes")  # keys of the section data that are not arguments of a kind of data
SPLITS = ("train", "val", "test", "all")  # that any data can have


class Data(ABC):
    """Where images come from: what ``data=...`` in a config builds."""

    @property
    def holds_out(self) -> bool:
        """Whether it has held-out images of its own, and not a part of the others that is chosen here."""
        return True

    @property
    def measures_apart(self) -> bool:
        """Whether no image that :meth:`validation` measures is trained on."""
        return True

    @property
    def default_split(self) -> str:
        """What :meth:`evaluation` gives where no ``split`` is asked for; "" = no single one."""
        return "val"

    @property
    def splits(self) -> tuple[str, ...]:
        """What :meth:`evaluation` takes as ``split``."""
        return USUAL

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
            split: "val" (held out of training), "train", "all", or "test" where the data names such a part; None = what
                suits the data.

        Raises:
            InputError: If there is no such split, or nothing to read.
        """

    def validation(self, image_size: int) -> Images:
        """The held-out images, measured at the end of training."""
        return self.evaluation(image_size, "val")


def require_list(images: Images, refusal: str) -> ImageSet:
    """The images as a list that can be read in any order; InputError with this text if they are a stream."""
    if not isinstance(images, ImageSet):
        raise InputError(refusal)
    return images


def check_split(split: str, splits: tuple[str, ...] = USUAL) -> None:
    """Raise InputError that names ``splits`` unless there is such a split among them."""
    if split not in splits:
        raise InputError(f"split must be one of {', '.join(splits)}, got {split!r}")
