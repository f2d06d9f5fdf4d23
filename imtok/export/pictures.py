"""Ids, ours or a generator's, as pictures."""

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from imtok.bars import watched
from imtok.conditions.base import NO_LABEL
from imtok.conditions.given import DecodeConditionConfig, give, read_captions
from imtok.errors import InputError
from imtok.export.convert import read_report
from imtok.export.decoding import Decoding
from imtok.export.restore import makes_tokens_of, restored
from imtok.export.store import MANIFEST, TokenStore, check_range, read_array
from imtok.files import claim_output, new_folder, write_json
from imtok.grid import as_picture
from imtok.measures.inference import Size, evaluating
from imtok.measures.spending import Spending
from imtok.quantizers.continuous import GIVE_IDS
from imtok.tokenizer import Tokenizer
from imtok.types import Tokens
from imtok.whole import interpolate_positions

MARKER = "pictures.json"
_BATCH_SIZE = 64


def decode_ids(
    tokenizer: Tokenizer,
    source: Path,
    folder: Path,
    size: Size,
    batch_size: int | None = None,
    device: str | torch.device = "cpu",
    told: DecodeConditionConfig | None = None,
    layout: Path | None = None,
    spending: Spending | None = None,
    bits: int = 8,
) -> int:
    """Write a PNG per image (of a store with several views, per view): ``000000.png``, ``000001.png``, ...

    Decoded in the batches that they were encoded in, the pictures of a store are the tokenizer's own reconstructions
    bit for bit. Matrix products round differently in batches of one or two images, which can move a value by one
    level of 255 here and there.

    Args:
        tokenizer: Ends on ``device``.
        source: An export folder, one of its ``ids-*.npy``, or any ``.npy`` of whole numbers whose last axes hold one
            image: ``(images, tokens)``, ``(images, tokens, slots)``, ``(images, rows, columns)``, LlamaGen's
            ``(1, crops, tokens)``, ... Where there are several slots, they are the last axis.
        folder: Appears whole or not at all; earlier pictures of this command in it are replaced.
        size: Height and width of the pictures, in pixels.
        batch_size: Images decoded at a time; None = as many as the store was encoded in, or 64.
        device: Where to compute.
        told: What is known of the images besides their ids, for a tokenizer that is told it; None = what the store
            says, or nothing.
        layout: A folder that ``imtok convert`` wrote, in whose numbers ``source`` is; None = they are the tokenizer's
            own ids.
        spending: How many of the tokens of an image are decoded; None = all that there are. A target is what is to be
            reached against the picture of all tokens, since there is no original.
        bits: Of each channel of a picture: 8, or 16 of images of one channel.

    Returns:
        How many pictures there are.

    Raises:
        InputError: If the ids cannot be read, are not of this tokenizer, or lie outside its vocabulary; or if an image
            lacks a caption or a label that the tokenizer is told.
    """
    require_bits(tokenizer, bits)
    claim_output(folder, MARKER)
    count = 0
    device, told, spending = torch.device(device), told or DecodeConditionConfig(), spending or Spending()
    with new_folder(folder) as aside, evaluating(tokenizer.to(device)):
        decode = Decoding(tokenizer, size, spending)
        lots = _told(_read(tokenizer, source, size, batch_size, layout, spending), told)
        for lot in watched(lots, _count(source), "decode", lambda lot: len(lot.captions)):
            tokens, captions, labels, varies, own = lot
            keep = None if tokens.keep is None else tokens.keep.to(device)
            _require_each(tokenizer, captions, labels, source, count, told)
            condition = tokenizer.condition_for(len(captions), captions, labels)
            moved = Tokens(tokens.ids.to(device), keep)
            try:
                images = decode(moved, condition, varies, own)
            except ValueError as error:
                wanted = own or size
                raise InputError(f"{source} cannot be decoded to {wanted[1]}x{wanted[0]} pixels ({error})") from None
            for image in images:
                as_picture(image, bits).save(aside / f"{count:06d}.png")
                count += 1
        write_json(aside / MARKER, {"ids": source.name, "pictures": count, "tokenizer_sha256": tokenizer.fingerprint()})
    return count


def require_bits(tokenizer: Tokenizer, bits: int) -> None:
    """Raise InputError if the pictures of a tokenizer cannot have this number of bits per channel."""
    if bits not in (8, 16):
        raise InputError(f"bits must be 8 or 16 per channel of a picture, got {bits}")
    if bits == 16 and tokenizer.channels != 1:
        raise InputError(f"bits=16 is for grey pictures, and the tokenizer makes {tokenizer.channels} channels; give 8")


class _Lot(NamedTuple):
    """Ids of some images, caption and label of each ("" and -1 where there is none), and of a whole image its size.

    ``varies`` says whether images have as many tokens as a target asked for, or as a prior has drawn.
    """

    tokens: Tokens
    captions: list[str]
    labels: Int64[Tensor, " b"]
    varies: bool = False
    size: Size | None = None


def _read(
    tokenizer: Tokenizer, source: Path, size: Size, batch_size: int | None, layout: Path | None, spending: Spending
) -> Iterator[_Lot]:
    """Batches of ids, all of them checked."""
    shards = _shards_of_store(source)
    # A token store: it tells sizes, captions and labels itself.
    if shards is not None and layout is not None:
        raise InputError(f"layout= is for numbers of a generator, and {source} has the tokenizer's ids; leave it out")
    if shards is not None:
        store = TokenStore(source if source.is_dir() else source.parent, whole=True)
        if not makes_tokens_of(tokenizer, store.manifest):
            raise InputError(f"{source} was exported with another tokenizer; give the one that wrote it")
        store.verify()
        tell_as_stored(tokenizer, store)
        words = store.told(shards)
        spending.require_square(store.whole)
        for tokens, own in store.single(shards) if store.whole else ():
            caption, label = next(words)
            yield _Lot(tokens, [caption], torch.tensor([label]), size=own)
        if store.whole:
            return
        for tokens in store.batches(batch_size or store.manifest["batch_size"] * store.views, shards):
            captions, labels = zip(*islice(words, len(tokens.ids)), strict=True)
            yield _Lot(tokens, list(captions), torch.tensor(labels), "target" in store.manifest.get("lengths", ()))
        return
    # Ids in files: of the tokenizer, or numbers of a generator by the layout that it was given.
    if layout is None:
        rows = _rows(tokenizer, source, size, spending)
        keep, varies = _keep_beside(source, rows), True
    else:
        rows, keep = restored(tokenizer, source, layout)
        varies = "target" in read_report(layout).get("lengths", ())
    step = batch_size or _BATCH_SIZE
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        check_range(part, tokenizer.quantizer.vocab_sizes, source, start)  # before the cast: uint64 could wrap around
        kept = None if keep is None else torch.from_numpy(keep[start : start + step])
        none = torch.full((len(part),), NO_LABEL)
        yield _Lot(Tokens(torch.from_numpy(part.astype(np.int64)), kept), [""] * len(part), none, varies)


def _keep_beside(source: Path, rows: np.ndarray) -> np.ndarray | None:
    """Which tokens there are of samples of a prior, which says it in ``keep.npy`` beside their ``ids.npy``."""
    beside = source.with_name("keep.npy")
    if source.name != "ids.npy" or not beside.is_file():
        return None
    keep = np.array(read_array(beside))
    if keep.shape != rows.shape[:2] or keep.dtype != np.bool_:
        raise InputError(f"{beside} must say of {rows.shape[:2]} tokens which there are, got {keep.dtype} {keep.shape}")
    return keep


def _count(source: Path) -> int | None:
    """How many images a whole store holds; None = it is something else."""
    if not source.is_dir():
        return None
    store = TokenStore(source, whole=True)
    return len(store) * store.views


def tell_as_stored(tokenizer: Tokenizer, store: TokenStore) -> None:
    """Tell the tokenizer of all images what it was told when they were exported, unless a command says otherwise."""
    condition, stored = tokenizer.condition, store.condition
    if condition is not None:
        stored.quality = None if condition.every_quality is not None else stored.quality
        stored.label = None if condition.every_label is not None else stored.label
    takes = {*tokenizer.encoder.takes, *tokenizer.decoder.takes}
    tokenizer.condition = give(condition, takes, stored) if stored.facts else condition
    if store.manifest.get("positions") == "interpolated":
        interpolate_positions(tokenizer)


def _told(lots: Iterator[_Lot], told: DecodeConditionConfig) -> Iterator[_Lot]:
    """The same, with the captions of a file where one is given."""
    if told.captions is None:
        yield from lots
        return
    every = list(lots)
    captions = iter(read_captions(told.captions, sum(len(lot.captions) for lot in every)))
    for lot in every:
        yield lot._replace(captions=list(islice(captions, len(lot.captions))))


def _require_each(
    tokenizer: Tokenizer, captions: list[str], labels: Tensor, source: Path, first: int, told: DecodeConditionConfig
) -> None:
    lacking = {} if tokenizer.condition is None else tokenizer.condition.lacking(captions, labels)
    for row, kind in sorted(lacking.items())[:1] if not told.missing else ():
        give = "condition.captions=FILE, a line for each image" if kind == "caption" else "condition.label=NUMBER"
        raise InputError(
            f"{source}: image {first + row} has no {kind}, which the tokenizer is told; give {give}, or "
            "condition.missing=true to decode such images as ones of which nothing is said"
        )


def _shards_of_store(source: Path) -> range | None:
    """Which shards of a store ``source`` is; None for a file of somebody else's."""
    if source.is_dir():
        return range(TokenStore(source, whole=True).manifest["shards"])
    try:
        shards = TokenStore(source.parent, whole=True).manifest["shards"] if (source.parent / MANIFEST).is_file() else 0
    except InputError:  # somebody else's manifest
        return None
    number = next((number for number in range(shards) if source.name == f"ids-{number:05d}.npy"), None)
    return None if number is None else range(number, number + 1)


def _rows(tokenizer: Tokenizer, source: Path, size: Size, spending: Spending) -> np.ndarray:
    """Any array of ids as ``images tokens slots``: as many of its last axes as hold one image are the image."""
    slots = len(tokenizer.quantizer.vocab_sizes)
    if not slots:
        what = type(tokenizer.quantizer).__name__
        raise InputError(f"{what} has continuous latents and no ids to decode; {GIVE_IDS}")
    try:
        tokens = tokenizer.num_tokens(size)
    except ValueError as error:
        raise InputError(f"{size[1]}x{size[0]} pixels do not fit the tokenizer ({error}); give another size") from None
    array = read_array(source)
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{source} must hold whole numbers, got {array.dtype}")
    own = array.shape if slots == 1 and array.shape[-1:] != (1,) else array.shape[:-1]  # without the axis of slots
    if spending.length is not None and own[-1:] == (spending.length,):  # of a generator of so many tokens
        tokens = spending.length
    one_image = any(math.prod(array.shape[axis:]) == tokens * slots for axis in range(array.ndim))
    if not array.size or not one_image or (slots > 1 and array.shape[-1] != slots):
        raise InputError(
            f"{source} must end in {tokens} tokens x {slots} slots for {size[1]}x{size[0]} pixels, "
            f"got shape {array.shape}"
        )
    return array.reshape(-1, tokens, slots)
