"""The tokens of a store as a data set: ids, labels and captions, image by image, with a part held out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from imtok.data.order.randomness import Purpose, bit_stream
from imtok.data.order.sampler import places
from imtok.errors import InputError
from imtok.export.store import Shard, TokenStore
from imtok.types import Tokens


class Other(Protocol):
    """Finds the ids of an image by another tokenizer."""

    @property
    def sha256(self) -> str | None:
        """The sha256 of all its files."""
        ...

    def of(self, key: str, view: int) -> Int64[np.ndarray, "t g"]:
        """The ids of a view of the image with this name."""
        ...


@dataclass(frozen=True)
class TokenBatch:
    """Tokens of some images, and what is known of the images.

    Attributes:
        tokens: Ids and ``keep``.
        label: Class of each, -1 where there is none.
        caption: Text about each, "" where there is none.
        key: Name of each.
        other: Ids of each image by another tokenizer; None = no ids.
    """

    tokens: Tokens
    label: Int64[Tensor, " b"]
    caption: tuple[str, ...]
    key: tuple[str, ...]
    other: Int64[Tensor, "b t2 g2"] | None = None

    def to(self, device: torch.device) -> "TokenBatch":
        """The same on another device."""
        keep = None if self.tokens.keep is None else self.tokens.keep.to(device)
        other = None if self.other is None else self.other.to(device)
        tokens = Tokens(self.tokens.ids.to(device), keep)
        return TokenBatch(tokens, self.label.to(device), self.caption, self.key, other)

    def __len__(self) -> int:
        return len(self.key)


class TokenRows(Dataset[Any]):
    """Views of images of a store, one a row, all views of an image one after the other. Ids are mapped, not read.

    Args:
        store: The token store.
        images: Which images of it, by number, in ascending order; None = all.
        other: Ids of the same images by another tokenizer, found by name; None = no ids.
    """

    def __init__(
        self, store: TokenStore, images: Int64[np.ndarray, " n"] | None = None, other: Other | None = None
    ) -> None:
        self.store, self.other = store, other
        self.images = np.arange(len(store)) if images is None else images
        self._shards = list[Shard](store.shards())
        self._ends = np.cumsum([len(shard.keys) for shard in self._shards])

    def __len__(self) -> int:
        return len(self.images) * self.store.views

    @override
    def __getitem__(self, place: int | tuple[int, int]) -> tuple[Any, ...]:
        """Ids, ``keep``, label, caption, key and other ids of a row, or of ``(epoch, row)`` as training asks."""
        row = place[1] if isinstance(place, tuple) else place
        image, view = divmod(row, self.store.views)
        number = int(self.images[image])
        at = int(np.searchsorted(self._ends, number, side="right"))
        shard, inside = self._shards[at], number - (int(self._ends[at - 1]) if at else 0)
        keep = None if shard.keep is None else shard.keep[inside, view]
        caption = shard.captions[inside] if shard.captions is not None else ""
        key = shard.keys[inside]
        other = None if self.other is None else self.other.of(key, view)
        return shard.ids[inside, view].astype(np.int64), keep, int(shard.labels[inside]), caption, key, other

    def some(self, images: int) -> "TokenRows":
        """The rows of at most ``most`` images from all over the store, since neighbours are often of one class."""
        return type(self)(self.store, self.images[places(images, len(self.images))], self.other)

    def beside(self, other: Other) -> "TokenRows":
        """The same rows, with the ids of their images by another tokenizer."""
        return type(self)(self.store, self.images, other)

    def batches(self, size: int, rank: int = 0, world: int = 1) -> Iterator[TokenBatch]:
        """This rank's rows in order, every so many of them."""
        own = range(rank, len(self), world)
        for at in range(0, len(own), size):
            yield collate([self[row] for row in own[at : at + size]])


def collate(rows: Sequence[tuple[Any, ...]]) -> TokenBatch:
    """Rows as a batch."""
    ids, keep, label, caption, key, other = zip(*rows, strict=True)
    masks, others = (None if part[0] is None else torch.from_numpy(np.stack(part)) for part in (keep, other))
    tokens = Tokens(torch.from_numpy(np.stack(ids)), masks)
    return TokenBatch(tokens, torch.tensor(label), tuple(caption), tuple(key), others)


def split_rows(store: TokenStore, share: float) -> tuple[TokenRows, TokenRows]:
    """Rows to train on and rows held out: a share of the images, drawn once and for all of their number.

    Raises:
        InputError: If a part would be empty.
    """
    count = len(store)
    held_out = max(1, round(count * share))
    if held_out >= count:
        raise InputError(
            f"{store.folder} holds {count} images, and val_fraction={share} of them leaves none to train on"
        )
    order = np.argsort(bit_stream(Purpose.ORDER, 0, 0).random_raw(count), kind="stable")
    return TokenRows(store, np.sort(order[held_out:])), TokenRows(store, np.sort(order[:held_out]))
