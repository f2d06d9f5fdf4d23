"""Images with what they are to be made from: a generator's ids, latents or pictures (arXiv 2509.12474)."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import xxhash
from jaxtyping import Int64
from torch import Tensor
from typing_extensions import override

from imtok.data.base import Data, Images, require_list
from imtok.data.contract import Sample
from imtok.data.images import ImageSet, Source, Subset, content_hash
from imtok.data.order.randomness import Purpose, generator
from imtok.data.reading.decode import DecodeError
from imtok.data.reading.headers import SUFFIXES
from imtok.data.reading.transforms import CentreCrop
from imtok.data.sources.folder import FileSource
from imtok.errors import InputError
from imtok.files import read_json

Kind = Literal["ids", "latents", "pictures"]


class Pairs(Data):
    """Target images beside what a decoder is to make them from. Trains on pairs, evaluates on the targets as ever.

    A target without a source is left out, and so is a source without a target. Targets are cut as for evaluation
    (the centre at the scale of the short side), as they were when their ids or latents were made.

    Args:
        targets: The images that are to come out, of any kind whose images can be read in any order.
        sources: A folder. Of ids or latents: ``ids-00000.npy`` (images, tokens, slots) or ``latents-00000.npy``
            (images, latents, width), ... beside ``keys-00000.json``, a list of the images' names, or what ``imtok
            export`` writes. Of pictures: a tree with the targets' names, whatever their suffixes.
        kind: What they are.
        flip: Mirror every other pair; of pictures only.

    Raises:
        ValueError: If ``kind`` is none of these, or ids or latents are to be mirrored.
        InputError: From its methods, if there are no pairs, or a file cannot be used.
    """

    def __init__(self, targets: Data, sources: str | Path, kind: Kind = "ids", flip: bool = False) -> None:
        if kind not in ("ids", "latents", "pictures"):
            raise ValueError(f"kind must be ids, latents or pictures, got {kind!r}")
        if flip and kind != "pictures":
            raise ValueError(f"flip must be false for {kind}, which cannot be mirrored, got true")
        self.targets, self.sources, self.flip = targets, Path(sources), flip
        self.kind: Kind = kind

    @property
    @override
    def default_split(self) -> str:
        return self.targets.default_split

    @property
    @override
    def holds_out(self) -> bool:
        return self.targets.holds_out

    @property
    @override
    def measures_apart(self) -> bool:
        return self.targets.measures_apart

    @property
    @override
    def splits(self) -> tuple[str, ...]:
        return self.targets.splits

    @override
    def train(self, image_size: int, seed: int) -> Images:
        refusal = "data.targets is a stream, which cannot be paired; give shards on this disk, without access=stream"
        images = require_list(self.targets.train(image_size, seed), refusal)
        found = open_partners(self.sources, self.kind, image_size)
        return PairSet(images.source, found, image_size, seed, self.flip)

    @override
    def evaluation(self, image_size: int, split: str | None = None) -> Images:
        """The targets alone."""
        return self.targets.evaluation(image_size, split)

    @override
    def validation(self, image_size: int) -> Images:
        return self.targets.validation(image_size)


class Partners(ABC):
    """What images are to be made from, by the images' names without suffix.

    Attributes:
        place: Where each is.
        remarks: What is not read; see :class:`~imtok.data.images.Source`.
    """

    place: dict[str, int]
    remarks: tuple[str, ...] = ()

    @abstractmethod
    def read(self, place: int) -> Tensor:
        """One of them; DecodeError if it is damaged."""

    @abstractmethod
    def record(self, place: int) -> str:
        """A text that changes when it is replaced."""


class PairSet(ImageSet):
    """Pairs in training: as :class:`ImageSet`, each sample with its source.

    Args:
        targets: All targets.
        partners: What they are to be made from.
        image_size: Side of the images, in pixels.
        seed: The run's seed.
        flip: Mirror every other pair.

    Raises:
        InputError: If no target has a partner.
    """

    kind = "pairs of sources and targets"

    def __init__(self, targets: Source, partners: Partners, image_size: int, seed: int, flip: bool) -> None:
        matched = _match(targets, partners)
        super().__init__(_Matched(targets, matched, partners), CentreCrop(image_size), seed, training=True)
        self.partners, self.places, self.flip = partners, matched[:, 1], flip

    @override
    def ask_channels(self, channels: int) -> None:
        super().ask_channels(channels)
        if isinstance(self.partners, PicturePartners):
            self.partners.files.ask_channels(channels)

    @override
    def __getitem__(self, place: tuple[int, int]) -> Sample:
        """The pair at ``(epoch, index)``; of another target if that one is damaged."""
        sample = super().__getitem__(place)
        if sample.image is None:
            return sample
        try:
            source = self.partners.read(int(self.places[sample.index]))
        except DecodeError as error:
            return replace(sample, image=None, error=f"data.sources: {error}; write it again")
        image = sample.image
        if self.flip and generator(Purpose.AUGMENT, self.seed, *place).random() < 0.5:
            image, source = image.flip(-1), source.flip(-1)
        return replace(sample, image=image, source=source)


class _Matched(Subset):
    """The targets that have a partner; their records tell of both."""

    def __init__(self, targets: Source, matched: Int64[np.ndarray, "n 2"], partners: Partners) -> None:
        super().__init__(targets, matched[:, 0])
        self.places, self.partners = matched[:, 1], partners
        self.remarks = tuple(dict.fromkeys((*targets.remarks, *partners.remarks)))
        if len(matched) < len(targets):
            count = len(targets) - len(matched)
            self.remarks += (f"{count} of {len(targets)} targets have no source in data.sources, and are left out",)

    @override
    def record(self, index: int) -> str:
        return f"{super().record(index)}\t{self.partners.record(int(self.places[index]))}"

    @override
    def records(self, indices: Int64[np.ndarray, " n"]) -> list[str]:
        return Source.records(self, indices)

    @override
    def fold(self, digest: xxhash.xxh3_128) -> None:
        Source.fold(self, digest)


class PicturePartners(Partners):
    """A tree of pictures.

    Args:
        folder: The tree.
        image_size: Side to which each is cut, in pixels.
    """

    def __init__(self, folder: Path, image_size: int) -> None:
        self.files, self.crop = FileSource(folder), CentreCrop(image_size)
        self.remarks = self.files.remarks
        self.place = {_stem(self.files.key(index)): index for index in range(len(self.files))}

    @override
    def read(self, place: int) -> Tensor:
        try:
            return self.crop(self.files.image(place), np.random.default_rng(0))  # it draws nothing
        except OSError as error:
            raise DecodeError(f"{self.files.key(place)}: {error.strerror or error}") from None

    @override
    def record(self, place: int) -> str:
        return self.files.record(place)


class ArrayPartners(Partners):
    """Rows of arrays, mapped and not read.

    Args:
        folder: Where they are.
        kind: "ids" or "latents".

    Raises:
        InputError: If there are none, or one is damaged or does not fit the others.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind = kind
        self.arrays, self.ends, self.place = list[np.ndarray](), [0], dict[str, int]()
        for number, (path, keys) in enumerate(self._shards(folder)):
            array = _array(path)
            wanted = np.integer if kind == "ids" else np.floating
            if array.ndim != 3 or not np.issubdtype(array.dtype, wanted) or len(array) != len(keys):
                raise InputError(
                    f"{path} must hold {kind} of {len(keys)} images (images, tokens, slots or width), got "
                    f"{array.dtype} of shape {list(array.shape)}"
                )
            if number and array.shape[1:] != self.arrays[0].shape[1:]:
                raise InputError(f"{path} must have the shape of the first one per image, got {list(array.shape[1:])}")
            self.place |= {_stem(key): self.ends[-1] + row for row, key in enumerate(keys)}
            self.arrays.append(array)
            self.ends.append(self.ends[-1] + len(array))

    def _shards(self, folder: Path) -> Iterator[tuple[Path, list[str]]]:
        paths = sorted(folder.glob(f"{self.kind}-*.npy")) if folder.is_dir() else []
        if not paths:
            raise InputError(f"data.sources={folder} holds no {self.kind}-00000.npy; write it with imtok export")
        if any(folder.glob("keep-*.npy")):
            raise InputError(f"data.sources={folder} holds {self.kind} of variable length, which pairs cannot have")
        for path in paths:
            number = path.stem.removeprefix(f"{self.kind}-")
            record, names = folder / f"shard-{number}.json", folder / f"keys-{number}.json"
            keys = read_json(record).get("keys") if record.is_file() else read_json(names)
            if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
                raise InputError(f"the names beside {path} must be a list of texts, got something else")
            yield path, keys

    @override
    def read(self, place: int) -> Tensor:
        row = self._row(place)
        return torch.from_numpy(row.astype(np.int64 if self.kind == "ids" else np.float32))

    @override
    def record(self, place: int) -> str:
        return content_hash(self._row(place).tobytes()).hex()

    def _row(self, place: int) -> np.ndarray:
        shard = int(np.searchsorted(self.ends, place, side="right")) - 1
        return self.arrays[shard][place - self.ends[shard]]


def open_partners(folder: Path, kind: Kind, image_size: int) -> Partners:
    """The sources in a folder."""
    return PicturePartners(folder, image_size) if kind == "pictures" else ArrayPartners(folder, kind)


def _match(targets: Source, partners: Partners) -> Int64[np.ndarray, "n 2"]:
    """Positions of targets and of their partners."""
    place = partners.place
    found = ((at, place.get(_stem(targets.key(at)), place.get(targets.stem(at), -1))) for at in range(len(targets)))
    pairs = np.array([pair for pair in found if pair[1] >= 0], dtype=np.int64).reshape(-1, 2)
    if not len(pairs):
        theirs = next(iter(partners.place), "nothing")
        raise InputError(
            f"no target has a source: targets are called like {targets.key(0)!r}, sources like {theirs!r}; give "
            "data.sources whose names are those of data.targets"
        )
    return pairs


def _stem(key: str) -> str:
    return key.rpartition(".")[0] if key.lower().endswith(tuple(suffix.decode() for suffix in SUFFIXES)) else key


def _array(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is not an .npy file of numbers ({error}); write it again") from None
