"""The data set that turns a source's images into samples: the same ones, whoever asks, whenever."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from torch.utils.data import Dataset
from typing_extensions import override

from imtok.conditions.base import NO_LABEL
from imtok.data.contract import Images, Sample
from imtok.data.order.collate import collate
from imtok.data.order.position import StreamPosition
from imtok.data.order.randomness import Purpose, bit_stream, generator
from imtok.data.order.sampler import Blocks, Steps, TrainBatches, places
from imtok.data.order.workers import Loader
from imtok.data.reading.decode import DecodeError
from imtok.data.reading.transforms import Transform
from imtok.data.source import MAX_BYTES, Columns, Indexable, Origins, Source, Subset, content_hash
from imtok.errors import InputError

__all__ = ["MAX_BYTES", "Columns", "ImageSet", "Indexable", "Origins", "Source", "Subset", "content_hash"]

ATTEMPTS = 32  # where half of all images were bad, one sample in four billion would find no stand-in


class ImageSet(Images, Dataset[Sample]):
    """Transformed images, each a pure function of the seed, the epoch and its index.

    In training another image stands in for one that cannot be decoded: which one is a function of the same three, so
    batches are full and the same for any number of workers. In evaluation nothing stands in.

    Args:
        source: The images.
        transform: Makes them squares of one size.
        seed: The run's seed, for random transforms.
        training: Replace images that cannot be decoded.
        least: See :meth:`Source.image`.
        captioned: Samples have captions: the first text about an image, and in training one of all that is drawn anew
            in each epoch.

    Attributes:
        boxes: Finds the boxes of objects in an image of a source; None = samples have no boxes.

    Raises:
        InputError: If the source is empty.
    """

    boxes: Callable[[Source, int], Float64[np.ndarray, "n 4"]] | None = None
    kind = "a list"

    def __init__(
        self,
        source: Source,
        transform: Transform,
        seed: int = 0,
        training: bool = False,
        least: int | None = None,
        captioned: bool = False,
    ) -> None:
        if len(source) == 0:
            raise InputError("the data set holds no image; give a path that does")
        self.source, self.transform, self.seed, self.training = source, transform, seed, training
        self.least, self.captioned = least, captioned

    def __len__(self) -> int:
        return len(self.source)

    @property
    @override
    def count(self) -> int:
        return len(self)

    @property
    def blocks(self) -> Blocks | None:
        """What :class:`~imtok.data.order.sampler.TrainBatches` should know of how the samples lie on the disk."""
        return self.source.blocks

    @property
    @override
    def remarks(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride], they are its source's
        return self.source.remarks

    @property
    def digest(self) -> str:
        """A text that changes with the list of samples."""
        return self.source.digest

    @property
    @override
    def about(self) -> dict[str, int | str]:
        return {"images": len(self), **self.source.identity}

    @override
    def was(self, about: Mapping[str, Any]) -> bool:
        now: dict[str, int | str] = dict(self.about)
        if "sha256" in about and "xxh3" in now:  # of a run of before there was a digest by columns
            del now["xxh3"]
            now["sha256"] = self.source.sha256
        return now == about

    @property
    @override
    def sketch(self) -> str:
        some = self.source.records(places(64, len(self.source)))
        return f"{len(self)} {content_hash(repr(some).encode()).hex()}"

    @property
    @override
    def cache_key(self) -> str:
        grey = "" if self.channels == 3 else f" {self.channels} channels"
        return f"{self.digest} {len(self)} {self.image_size}{grey}"

    @property
    @override
    def channels(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride], as above
        return self.source.channels

    @override
    def ask_channels(self, channels: int) -> None:
        self.source.ask_channels(channels)

    @override
    def ask_captions(self, wanted: bool) -> None:
        self.captioned = self.captioned or wanted

    @override
    def lacking(self, kind: str, number: int) -> tuple[int, int]:
        source, looked_at = self.source, places(number, len(self.source)).tolist()
        if kind == "caption":
            return sum(not any(text.strip() for text in source.texts(place)) for place in looked_at), len(looked_at)
        return sum(source.label(place) == NO_LABEL for place in looked_at), len(looked_at)

    @override
    def spread(self, most: int) -> "ImageSet":
        return self if len(self) <= most else self.some(places(most, len(self)))

    @override
    def shuffled(self, most: int | None, seed: int) -> "ImageSet":
        return self.some(np.random.default_rng(seed).permutation(len(self))[:most].astype(np.int64))

    @override
    def training_batches(self, steps: Steps, position: StreamPosition | None = None) -> TrainBatches:
        return TrainBatches(len(self), *steps, self.blocks)

    @override
    def evaluation_batches(self, batch_size: int, rank: int, world: int) -> list[list[tuple[int, int]]]:
        own = [(0, index) for index in range(rank, len(self), world)]
        return [own[at : at + batch_size] for at in range(0, len(own), batch_size)]

    @override
    def loader(self, batches: Iterable[Any], workers: int) -> Loader:
        put_together = partial(collate, size=self.image_size, channels=self.channels)
        return Loader(self, workers, batch_sampler=batches, collate_fn=put_together)

    @override
    def spread_loader(self, number: int) -> Loader:
        return self.loader([[(0, index) for index in places(number, len(self)).tolist()]], 0)

    @override
    def whole_loader(self, batch_size: int, workers: int, own: Callable[[int], bool]) -> Loader:
        batches = self.evaluation_batches(batch_size, 0, 1)
        return self.loader([batch if own(number) else [] for number, batch in enumerate(batches)], workers)

    @override
    def samples(self, number: int) -> list[Sample]:
        return [self[0, index] for index in sorted(set(np.linspace(0, len(self) - 1, number).astype(int).tolist()))]

    def some(self, indices: Int64[np.ndarray, " n"]) -> "ImageSet":
        """Those at some places, in evaluation mode."""
        images = ImageSet(Subset(self.source, indices), self.transform, captioned=self.captioned)
        images.boxes = self.boxes
        return images

    @override
    def __getitem__(self, place: tuple[int, int]) -> Sample:
        """The sample at ``(epoch, index)``."""
        epoch, index = place
        shown, bad = index, []
        for attempt in range(ATTEMPTS if self.training else 1):
            try:
                image = self.source.image(shown, self.least)
            except DecodeError as error:
                bad.append(str(error))
            except OSError as error:
                bad.append(f"{self.source.key(shown)}: {error.strerror or error}")
            else:
                shape = (image.shape[-2], image.shape[-1])
                image = self.crop(index)(image, generator(Purpose.AUGMENT, self.seed, epoch, index))
                caption, texts = self._texts(epoch, index, shown) if self.captioned else ("", ())
                boxes = None if self.boxes is None else self.crop(index).placed(self.boxes(self.source, shown), shape)
                label, key = self.source.label(shown), self.source.key(shown)
                return Sample(image, label, shown, key, tuple(bad), caption=caption, texts=texts, boxes=boxes)
            if len(self) > 1:
                draw = int(bit_stream(Purpose.REPLACE, self.seed, epoch, index, attempt).random_raw())
                shown = (index + 1 + draw % (len(self) - 1)) % len(self)
        error = f"no image could be decoded in {len(bad)} tries, the last being {bad[-1]}; check the data"
        key, label = self.source.key(index), self.source.label(index)
        return Sample(None, label, index, key, tuple(bad), error if self.training else None)

    def crop(self, index: int) -> Transform:
        """The transform for the sample of a place."""
        return self.transform

    def _texts(self, epoch: int, index: int, shown: int) -> tuple[str, tuple[str, ...]]:
        """In training one of the texts, drawn by seed, epoch and place; else the first one, beside all of several."""
        texts = self.source.texts(shown)
        if not self.training:
            return texts[0] if texts else "", texts if len(texts) > 1 else ()
        drawn = int(bit_stream(Purpose.CAPTION, self.seed, epoch, index).random_raw())
        return texts[drawn % len(texts)] if texts else "", ()
