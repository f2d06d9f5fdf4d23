"""Collections of image files, of which a part is held out."""

from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Unpack, cast

import numpy as np
from typing_extensions import override

from imtok.data.archives.index import find_index, one_writer, write_index
from imtok.data.archives.names import hash_fraction
from imtok.data.base import Data, Images, check_split
from imtok.data.images import Columns, ImageSet, Indexable, Source, Subset
from imtok.data.reading.reading import Reading, ReadingSettings
from imtok.data.reading.transforms import CentreCrop
from imtok.data.sources.apart import copies, without
from imtok.data.sources.classes import Labelled, number_like, some
from imtok.errors import InputError


class Collection(Data):
    """Images under a path. Trains on random crops, evaluates on ADM's centre crop of every image by default.

    Whether an image is held out depends on its key alone: more images may be added and none changes sides.

    Args:
        path: The images to train on and to evaluate.
        val_path: Images held out of training, which may be some of ``path``; None = a part of ``path`` is.
        val_fraction: That part, in (0, 1). Of two or more images at least one is
            held out and one is not; a single image is on both sides.
        index: A file with the name, size and content hash of every image of ``path``: it is made if it is not there,
            and from then on an image that is not byte for byte what it was is a bad image. That of ``val_path`` lies
            beside it as ``NAME.val.SUFFIX``. None = images are taken as they are.
        **reading: How the files are read; see :class:`~imtok.data.reading.reading.Reading`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        path: str | Path,
        val_path: str | Path | None = None,
        val_fraction: float = 0.05,
        index: str | Path | None = None,
        **reading: Unpack[ReadingSettings],
    ) -> None:
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
        self.path, self.val_path, self.val_fraction = str(path), val_path and str(val_path), val_fraction
        self.index = None if index is None else Path(index)
        self.reading = Reading(**reading)

    @property
    def captioned(self) -> bool:
        """Whether training samples have captions, as the settings ask."""
        return bool(self.caption)

    caption: str | None = None  # what of the data holds texts, where that can be set
    kind: str  # of what an index is that fits

    @abstractmethod
    def open(self, path: str, classes: list[str] | None, stored: Columns | None) -> Source:
        """List the images under ``path``.

        Args:
            path: As the user gave it.
            classes: Number the classes like this; None = by their own names.
            stored: An index of them; None = there is none.

        Raises:
            InputError: If there are none, or they cannot be listed, or are not those of the index.
        """

    @override
    def train(self, image_size: int, seed: int) -> Images:
        transform = self.reading.training_crop(image_size)
        least = self.reading.least(transform)
        return ImageSet(self._part("train"), transform, seed, training=True, least=least, captioned=self.captioned)

    @property
    @override
    def holds_out(self) -> bool:
        return self.val_path is not None

    @property
    @override
    def default_split(self) -> str:
        return "all"

    @property
    @override
    def measures_apart(self) -> bool:
        return len(self._all) > 1 if self.val_path is None else not self._copies

    @override
    def evaluation(self, image_size: int, split: str | None = None) -> Images:
        """Centre crops of every image of ``path``, or of ``split``."""
        return ImageSet(self._part(split or self.default_split), CentreCrop(image_size))

    def _part(self, split: str) -> Source:
        check_split(split, self.splits)
        if split == "all":
            return self._all
        if self.val_path is not None:
            return self._val if split == "val" else self._rest
        if len(self._all) == 1:  # to overfit one image is a fair thing to try
            return self._all
        return Subset(self._all, np.flatnonzero(self._held_out == (split == "val")))

    @cached_property
    def _all(self) -> Source:
        source = self._open_path()
        if len(source) == 1 and self.val_path is None:
            source.remarks += (f"data.path={self.path} is one image, which is trained on and measured",)
        return source

    def _open_path(self) -> Source:
        """All images of ``path``."""
        return self.opened(self.path, None, self.index)

    def _training(self) -> Source:
        """What of ``path`` is to be trained on, but for what is held out."""
        return self._all

    @cached_property
    def _rest(self) -> Source:
        rest = without(self._training(), self._val, self.path, str(self.val_path))
        if self._copies:
            whose = f"images of data.val_path={self.val_path} are copies of images of data.path={self.path}"
            rest.remarks += (f"{whose}, which are trained on: {some(self._copies)}",)
        return rest

    @cached_property
    def _copies(self) -> list[str]:
        source, held_out = self._training(), self._val
        files = isinstance(source, Indexable) and isinstance(held_out, Indexable) and source.kind == "files"
        return copies(source, held_out) if files else []  # pyright: ignore[reportArgumentType], files says what they are

    @cached_property
    def _val(self) -> Source:
        index = self.index and self.index.with_suffix(f".val{self.index.suffix}")
        classes = self._training().classes
        source = self.opened(str(self.val_path), classes, index)
        if source.classes != classes and isinstance(source, Labelled):  # of a kind that does not look at classes itself
            number_like(source, classes, f"data.val_path={self.val_path}")
        return source

    def opened(self, path: str, classes: list[str] | None, index: Path | None) -> Source:
        """The images under ``path`` with this collection's settings, checked by an index if there is one."""
        stored = find_index(index, self.kind) if index else None
        if index is None or stored is not None:
            return self._with_index(path, classes, index, stored)
        with one_writer(index):
            return self._with_index(path, classes, index, find_index(index, self.kind))

    def _with_index(self, path: str, classes: list[str] | None, index: Path | None, stored: Columns | None) -> Source:
        source = self.open(path, classes, stored)
        if stored is not None:
            source.content_hashes = cast(np.ndarray, stored["hashes"])
        elif index is not None:
            if not isinstance(source, Indexable):
                raise InputError(f"data.index={index} cannot be made of this kind of data; leave it out")
            source.content_hashes = write_index(source, index)
        source.reading = self.reading
        return source

    @cached_property
    def _held_out(self) -> np.ndarray:
        fractions = np.array([hash_fraction(self._all.key(index)) for index in range(len(self._all))])
        held_out = fractions < self.val_fraction
        held_out[fractions.argmin()] = True
        held_out[fractions.argmax()] = False
        return held_out
