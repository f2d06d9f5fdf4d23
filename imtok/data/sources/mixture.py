"""Several data sets in one training run, each with a weight."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations

import numpy as np
from typing_extensions import override

from imtok.data.base import SPLITS, Data, Images, check_split, require_list
from imtok.data.contract import Sample
from imtok.data.images import ImageSet
from imtok.data.order.sampler import Blocks
from imtok.data.reading.transforms import CentreCrop
from imtok.data.sources.apart import shared
from imtok.data.sources.joined import Joined


class Mixture(Data):
    """Trains on several data sets at given rates, and evaluates on all their images once.

    An epoch is as long as it takes to show the images of every part at least once; images of the others come again
    then, with other crops. Over the epochs, all images of a part are shown equally often.

    Args:
        parts: Data sets by name.
        weights: How often each is drawn, by name: positive, only their ratios count.

    Raises:
        ValueError: If parts and weights have unlike names, or a weight is not positive.
        InputError: From its methods, if a part cannot be read at random.
    """

    def __init__(self, parts: Mapping[str, Data], weights: Mapping[str, float]) -> None:
        if not parts or set(parts) != set(weights):
            raise ValueError(f"weights must name the parts {', '.join(parts)}, got {', '.join(weights) or 'none'}")
        if not all(0 < weight < float("inf") for weight in weights.values()):
            raise ValueError(f"weights must be positive, got {dict(weights)}")
        self.parts, self.weights = dict(parts), [float(weights[name]) for name in parts]

    @property
    @override
    def measures_apart(self) -> bool:
        return all(data.measures_apart for data in self.parts.values()) and not self._crossing(16, 0)

    @property
    @override
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if all(split in data.splits for data in self.parts.values()))

    @override
    def train(self, image_size: int, seed: int) -> ImageSet:
        sets = {
            # seeds of their own, or equal places in the parts would have equal crops
            name: data.train(image_size, (seed + number * 2**32) % 2**64)
            for number, (name, data) in enumerate(self.parts.items())
        }
        mixed = MixedSet(_all_lists(sets), self.weights, seed)
        mixed.joined.remarks += self._crossing(image_size, seed)
        return mixed

    def _crossing(self, image_size: int, seed: int) -> tuple[str, ...]:
        """A remark for each two parts of which one trains on images that the other one holds out."""
        trained = _all_lists({name: data.train(image_size, seed) for name, data in self.parts.items()})
        measured = _all_lists({name: data.validation(image_size) for name, data in self.parts.items()})
        found = list[str]()
        for one, other in permutations(self.parts, 2):
            count = int(shared(trained[one].source, measured[other].source).sum())
            if count:
                what = f"{count} images of data.parts.{one} are trained on"
                found.append(f"{what}, although data.parts.{other} holds them out")
        return tuple(found)

    @property
    @override
    def default_split(self) -> str:
        own = {data.default_split for data in self.parts.values()}
        return own.pop() if len(own) == 1 else ""

    @override
    def evaluation(self, image_size: int, split: str | None = None) -> ImageSet:
        """All images of the parts, or of their ``split``; each part's own choice by default."""
        if split is not None:
            check_split(split, self.splits)
        sets = _all_lists({name: data.evaluation(image_size, split) for name, data in self.parts.items()})
        return ImageSet(Joined([images.source for images in sets.values()], list(sets)), CentreCrop(image_size))


class MixedSet(ImageSet):
    """Training sets at given rates: an index says which part, and with the epoch which of its images.

    Args:
        sets: Training sets by name.
        weights: How often each is drawn.
        seed: The run's seed.
    """

    kind = "a mixture"

    def __init__(self, sets: Mapping[str, ImageSet], weights: list[float], seed: int) -> None:
        self.sets, self.shares = list(sets.values()), np.array(weights) / sum(weights)
        self.joined = Joined([images.source for images in self.sets], list(sets))
        super().__init__(self.joined, self.sets[0].transform, seed, training=True)
        epoch = max(len(images) / share for images, share in zip(self.sets, self.shares, strict=True))
        counts = [max(len(images), round(share * epoch)) for images, share in zip(self.sets, self.shares, strict=True)]
        self.counts, self.ends = counts, np.cumsum(counts)

    @override
    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    @override
    def blocks(self) -> Blocks | None:
        return None

    @property
    @override
    def about(self) -> dict[str, int | str]:
        shares = " ".join(f"{share:.9f}" for share in self.shares)
        return {**super().about, "shares": shares}

    @property
    @override
    def parts(self) -> list[ImageSet]:
        return self.sets

    @override
    def ask_captions(self, wanted: bool) -> None:
        super().ask_captions(wanted)
        for images in self.sets:
            images.ask_captions(wanted)

    def place(self, epoch: int, index: int) -> tuple[int, int, int]:
        """The part, how often all of it was shown before, and which of its images is next."""
        part = int(np.searchsorted(self.ends, index, side="right"))
        count = self.counts[part]
        # each epoch goes on where the one before stopped, so that a rest of an uneven ratio is never the same images
        turn, at = divmod(epoch * count + index - int(self.ends[part]) + count, len(self.sets[part]))
        return part, turn, at

    @override
    def __getitem__(self, place: tuple[int, int]) -> Sample:
        """The sample at ``(epoch, index)``."""
        part, turn, at = self.place(*place)
        sample = self.sets[part][turn, at]
        bad = tuple(self.joined.name_of(part, reason) for reason in sample.bad)
        return replace(
            sample,
            label=self.joined.class_of(part, sample.label),
            index=place[1],
            key=self.joined.name_of(part, sample.key),
            bad=bad,
        )


def _all_lists(sets: Mapping[str, Images]) -> dict[str, ImageSet]:
    refusal = "is a stream, which cannot be mixed; copy remote shards here, and leave out access=stream"
    return {name: require_list(images, f"data.parts.{name} {refusal}") for name, images in sets.items()}
