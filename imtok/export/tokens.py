"""A data set as tokens, for generators to train on."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from imtok.conditions.given import ConditionConfig
from imtok.data.told import require_each
from imtok.errors import InputError
from imtok.export.building import Building
from imtok.export.codebook import write_codebook
from imtok.export.feed import Feed
from imtok.export.formats.counts import NO_ORDER
from imtok.export.store import FORMAT
from imtok.export.views import Views
from imtok.measures.inference import are_finite, evaluating, name_size, refuse_infinite
from imtok.measures.spending import Spender, Spending
from imtok.pixels import to_float
from imtok.quantizers.continuous import GIVE_IDS
from imtok.quantizers.layout import layout, structure
from imtok.tokenizer import Tokenizer
from imtok.types import Batch
from imtok.whole import grown, readable_size

ORDER = "that of the tokenizer's latents; of a grid row by row, from the top left"
_ROW = 128  # bytes of an image's label and key, about


def export_tokens(
    tokenizer: Tokenizer,
    feed: Feed,
    folder: Path,
    views: Views | None = None,
    device: str | torch.device = "cpu",
    data: dict[str, Any] | None = None,
    told: ConditionConfig | None = None,
    spending: Spending | None = None,
    shape: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write ids, labels, keys and captions of every image in shards, the codebook, and last the manifest.

    Any number of processes may do this at once, on the same folder with the same arguments: each takes shards that no
    other has, and all return when the store is whole. After a kill the same call goes on where whole shards end; of a
    store that is finished it changes nothing. The files are the same whatever happened in between.

    Args:
        tokenizer: Ends on ``device``.
        feed: The images, in the order in which they are to be stored.
        folder: Appears whole or not at all (``folder.partial`` until then); an export by other settings is replaced.
        views: Which crops of each image; None = the image.
        device: Where to compute.
        data: Which images they are, in words for the manifest; it decides nothing.
        told: What a command told the tokenizer of all images, and whether they may lack a caption or label that it
            reads; None = nothing, and they may not.
        spending: How many tokens an image gets; None = all.
        shape: ``crop: none`` = images are whole, each of its own size, one in a batch; the store then holds the size
            and the number of tokens of each, and ids after its last token are zero. ``positions: interpolated`` = the
            tokenizer's positions were resized for them.

    Returns:
        The manifest.

    Raises:
        InputError: If the tokenizer has no ids, no image can be read, the disk is full, or the folder or the rest of
            an earlier export holds something else.
    """
    quantizer, views, told = tokenizer.quantizer, views or Views(), told or ConditionConfig()
    spending = spending or Spending()
    said = dict(shape or {})
    given = {name: facts for name, facts in (("condition", told.facts), ("lengths", spending.facts)) if facts}
    if not quantizer.vocab_sizes:
        raise InputError(f"{type(quantizer).__name__} has continuous latents and no ids to export; {GIVE_IDS}")
    size = None if feed.side is None else _view_size(feed.side, views)
    # The plan: a store that was begun goes on only with the same one.
    plan = {
        "format": FORMAT,
        "tokenizer_sha256": tokenizer.fingerprint(),
        "data": feed.about,
        "image_size": size,
        "augment": views.augment,
        **feed.cut,
        "batch_size": feed.batch_size,
        **given,
        **said,
    }
    building = Building(folder, plan)
    if building.finished():
        return building.manifest()
    # Write the shards that are not there yet.
    try:
        with evaluating(tokenizer.to(device)):
            whole = "crop" in said
            coder = _Coder(tokenizer, views, size, torch.device(device), told.missing, spending, whole)
            if feed.images is not None and size is not None:
                building.require_room(_bytes_left(building, feed, coder, len(views), size))
            for wait in (False, True):  # once what nobody has, then what others have left
                _write_shards(building, feed, coder, wait)
                if all(map(building.has, range(feed.shards))):
                    break
        # Seal it: what every reader needs to know, and hashes of all files.
        axes = ["images", *(["views"] if len(views) > 1 else []), "tokens", "slots"]
        head = {
            "augment": views.augment,
            "views": views.about,
            **feed.cut,
            "ids": {"shape": axes, "dtype": id_type(quantizer.vocab_sizes).name},
            "token_order": NO_ORDER if tokenizer.decoder.unordered else ORDER,
            **layout(quantizer),
            **structure(quantizer),
            "classes": feed.classes,
            "tokenizer_sha256": plan["tokenizer_sha256"],
            "codes_sha256": tokenizer.codes_fingerprint(),
            **given,
            **({"prefixes": not tokenizer.encoder.budgeted} if tokenizer.decoder.flexible else {}),
            **said,
            "data": {**(data or {}), **feed.about},
        }
        return building.finish(feed.shards, partial(write_codebook, quantizer), head)
    finally:
        building.close()


def id_type(vocab_sizes: Sequence[int]) -> np.dtype:
    """The type that ids are stored in: uint16, or uint32, or int64, by the largest vocabulary."""
    largest = max(vocab_sizes)
    return np.dtype(np.uint16 if largest <= 2**16 else np.uint32 if largest <= 2**32 else np.int64)


def _view_size(side: int, views: Views) -> int:
    """The size of the views that squares of ``side`` pixels were made for."""
    size = next((size for size in range(1, side + 1) if views.square(size) >= side), side)
    if views.square(size) != side:
        raise ValueError(f"images for augment={views.augment} must be int(size * {views.resize}) pixels, got {side}")
    return size


def _bytes_left(building: Building, feed: Feed, coder: "_Coder", views: int, size: int) -> int:
    try:
        tokens = coder.spender((size, size)).tokens
    except ValueError as error:
        raise InputError(f"the tokenizer cannot read {name_size((size, size))} ({error})") from None
    sizes = coder.tokenizer.quantizer.vocab_sizes
    each = views * tokens * len(sizes) * id_type(sizes).itemsize + _ROW
    left = sum(not building.has(number) for number in range(feed.shards))
    return each * min(left * feed.cut["shard_size"], feed.images or 0)


class _Coder:
    """Batches of images to arrays of ids, checking that all images have one size."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        views: Views,
        size: int | None,
        device: torch.device,
        missing: bool,
        spending: Spending,
        whole: bool = False,
    ) -> None:
        self.tokenizer, self.views, self.size, self.device = tokenizer, views, size, device
        self.dtype = id_type(tokenizer.quantizer.vocab_sizes)
        self.image_size: tuple[int, int] | None = None
        self.room: Tensor | None = None
        self.missing, self.spending, self.whole = missing, spending, whole
        self._spender: Spender | None = None

    def spender(self, size: tuple[int, int]) -> Spender:
        """What chooses how many tokens images of this size get."""
        if self._spender is None or self._spender.size != size:
            self._spender = Spender(self.tokenizer, size, self.spending)
        return self._spender

    def __call__(self, batch: Batch) -> "_Coded":
        """The batch on its way through the tokenizer: of a GPU nothing is waited for."""
        pixels = batch.image.pin_memory() if self.device.type == "cuda" else batch.image
        # to numbers first: ten crops have eight times the pixels of the square that they are cut from
        square = to_float(pixels.to(self.device, non_blocking=True)).to(self.tokenizer.decoder.last_layer.dtype)
        image = self._cut(square)
        size = (image.shape[-2], image.shape[-1])
        if self.whole:
            try:
                image = grown(square, readable_size(self.tokenizer, size))[:, None]
            except InputError as error:
                raise InputError(f"{batch.key[0]}: {error}") from None
            self.image_size = size
        if self.image_size is None:
            self.image_size = size
            try:
                self.tokenizer.num_tokens(size)
            except ValueError as error:
                raise InputError(f"{batch.key[0]}: the tokenizer cannot read {name_size(size)} ({error})") from None
        if size != self.image_size:
            expected = name_size(self.image_size)
            raise InputError(f"{batch.key[0]}: images must all have {expected}, got {name_size(size)}")
        require_each(batch, self.tokenizer.condition, self.missing)
        condition = self.tokenizer.condition_of(batch)
        condition = condition and condition.repeat(len(self.views))
        quantized = self.spender((image.shape[-2], image.shape[-1])).encode(
            rearrange(image, "b a c h w -> (b a) c h w"), condition
        )
        keys = [key for key in batch.key for _ in self.views.all]
        found = {"ids": quantized.ids, "finite": are_finite(quantized.latents)}
        if quantized.keep is not None:
            found["keep"] = quantized.keep
        return _Coded(found, keys, len(batch.image), self.dtype)

    def _cut(self, square: Float[Tensor, "b c square_h square_w"]) -> Float[Tensor, "b a c h w"]:
        """All views, in the same memory for every batch: new pages cost a processor more than the crops themselves."""
        if self.room is None or self.size is None or len(self.room) < len(square):
            image = self.views(square, self.size)
            self.room = image if len(self.views) > 1 else None
            return image
        return self.views(square, self.size, self.room[: len(square)])


class _Coded:
    """What a tokenizer says of a batch, on its way from the device.

    Args:
        found: Ids, ``finite`` and maybe ``keep``, a row for each view of each image.
        keys: Names of the images, by row.
        images: Their number.
        dtype: Ids are stored in it.
    """

    def __init__(self, found: dict[str, Tensor], keys: list[str], images: int, dtype: np.dtype) -> None:
        self.keys, self.images, self.dtype = keys, images, dtype
        # of a GPU, the copies lie in pinned memory and are there once the event is
        self._found = {name: rows.to("cpu", non_blocking=rows.is_cuda) for name, rows in found.items()}
        self._there = torch.cuda.Event() if found["ids"].is_cuda else None
        if self._there is not None:
            self._there.record()

    def arrays(self) -> dict[str, np.ndarray]:
        """Ids ``images views tokens slots``, and ``keep`` where lengths vary, without an axis of one view.

        Raises:
            InputError: If an image has latents that are not finite.
        """
        if self._there is not None:
            self._there.synchronize()
        refuse_infinite(self._found.pop("finite"), self.keys, "latents")
        arrays = {name: rows.numpy() for name, rows in self._found.items()}
        arrays["ids"] = arrays["ids"].astype(self.dtype)
        views = len(self.keys) // self.images
        if views == 1:
            return arrays
        return {name: rows.reshape(self.images, views, *rows.shape[1:]) for name, rows in arrays.items()}


def _write_shards(building: Building, feed: Feed, coder: _Coder, wait: bool) -> None:
    """Encode and write what can be claimed."""
    begun = dict[int, _Rows]()
    for number, batch in feed.batches(partial(building.claim, wait=wait)):
        rows = begun.setdefault(number, _Rows(coder))
        if batch is None:
            building.write(number, *begun.pop(number).shard())
        else:
            rows.add(batch)


class _Rows:
    """What becomes one shard: the rows of its batches."""

    def __init__(self, coder: _Coder) -> None:
        self.coder, self.parts = coder, dict[str, list[np.ndarray]]()
        self.keys, self.captions, self.bad, self.largest = list[str](), list[str](), list[str](), 0
        self.texts, self.sizes, self.lengths = list[tuple[str, ...]](), list[list[int]](), list[int]()
        self._late: tuple[_Coded, np.ndarray] | None = None  # a batch that may still be computed, and its labels

    def add(self, batch: Batch) -> None:
        """Encode a batch, and then take the results of the one before it."""
        self.bad.extend(batch.bad)
        if not len(batch.image):
            return
        self.keys.extend(batch.key)
        self.captions.extend(batch.caption or [""] * len(batch.key))
        self.texts.extend(batch.texts or [()] * len(batch.key))
        self.largest = max(self.largest, len(batch.image))
        self.sizes.append(list(batch.image.shape[-2:]))
        late, self._late = self._late, (self.coder(batch), batch.label.numpy())
        self._take(late)

    def _take(self, late: tuple[_Coded, np.ndarray] | None) -> None:
        if late is None:
            return
        found = late[0].arrays()
        self.lengths.append(found["ids"].shape[-2])
        for name, rows in {**found, "labels": late[1]}.items():
            self.parts.setdefault(name, []).append(rows)

    def shard(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays of the shard, and what its record says of them."""
        self._take(self._late)
        self._late = None
        coder, keys = self.coder, self.keys
        # Images of different sizes are filled up to the longest.
        most = max(self.lengths, default=0) if coder.whole else None
        arrays = {name: np.concatenate([_filled(one, name, most) for one in rows]) for name, rows in self.parts.items()}
        about = {
            "image_size": list((coder.image_size if keys else None) or (0, 0)),
            "tokens": arrays["ids"].shape[-2] if keys else 0,
            "batch_size": self.largest,
            "variable_length": "keep" in arrays,
            "keys": keys,
            "bad": self.bad,
        }
        if coder.whole:
            about |= {"image_size": [0, 0], "sizes": self.sizes, "lengths": self.lengths}
        if any(self.captions):
            about["captions"] = self.captions
        if any(self.texts):
            pairs = zip(self.captions, self.texts, strict=True)
            about["texts"] = [list(several) or ([caption] if caption else []) for caption, several in pairs]
        return arrays, about


def _filled(rows: np.ndarray, name: str, tokens: int | None) -> np.ndarray:
    """Rows of ids or of ``keep`` with zeros up to so many tokens; None = they are all of one length."""
    if tokens is None or name == "labels":
        return rows
    return np.pad(rows, [(0, tokens - size) if axis == 1 else (0, 0) for axis, size in enumerate(rows.shape)])
