"""The token store: shards of ids with labels and keys beside them, and a manifest that knows every file's hash."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imtok.bars import watched
from imtok.conditions.given import ConditionConfig
from imtok.errors import InputError
from imtok.files import as_json, is_sealed, read_json, stamp
from imtok.shard_folder import MANIFEST
from imtok.types import Tokens

FORMAT = 2
_NEEDED = {"images", "tokens", "shards", "vocab_sizes", "image_size", "batch_size", "variable_length", "views", "files"}


def record_name(number: int) -> str:
    """The file that says what a shard holds: keys, unreadable samples, and the hashes of its arrays."""
    return f"shard-{number:05d}.json"


@dataclass(frozen=True)
class Shard:
    """Consecutive images of a store.

    Attributes:
        ids: ``images views tokens slots``, uint16, uint32 or int64. Files of stores with one view lack that axis.
        labels: Class of each image, -1 where there is none.
        keys: Name of each image.
        keep: ``images views latents``, True where a latent is transmitted; None for fixed-length tokenizers.
        captions: Text about each image, "" where there is none; None where no image of the shard has one.
        texts: All texts about each image; None where no image of the shard has several.
    """

    ids: np.ndarray
    labels: np.ndarray
    keys: list[str]
    keep: np.ndarray | None
    captions: list[str] | None = None
    texts: list[list[str]] | None = None


class TokenStore:
    """Reads what ``export_tokens`` wrote; what writers for particular generators start from.

    Args:
        folder: The export folder.

    Raises:
        InputError: If it is not a token store of this format.
    """

    def __init__(self, folder: str | Path, whole: bool = False) -> None:
        self.folder = folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            raise InputError(f"{folder} is not a token store (no {MANIFEST} in it); write one with imtok export")
        self.manifest: dict[str, Any] = read_json(folder / MANIFEST)
        if not isinstance(self.manifest, dict) or self.manifest.get("format") != FORMAT:
            raise InputError(f"{folder / MANIFEST} is not of format {FORMAT}")
        missing = _NEEDED - self.manifest.keys()
        if missing:
            raise InputError(f"{folder / MANIFEST} is damaged (it lacks {min(missing)}); export again")
        if self.whole and not whole:
            raise InputError(
                f"{folder} holds whole images of many sizes, which only imtok decode and imtok verify read; export "
                "again without crop=none"
            )

    @property
    def whole(self) -> bool:
        """Whether each image has a size and a number of tokens of its own."""
        return self.manifest.get("crop") == "none"

    def single(self, shards: Sequence[int] | None = None) -> Iterator[tuple[Tokens, tuple[int, int]]]:
        """The tokens of each whole image, one after the other, and its height and width."""
        for number in range(self.manifest["shards"]) if shards is None else shards:
            shard, record = self.shard(number), self.record(number)
            for row, (size, length) in enumerate(zip(record["sizes"], record["lengths"], strict=True)):
                ids = torch.from_numpy(shard.ids[row, :, :length].astype(np.int64))
                keep = None if shard.keep is None else torch.from_numpy(np.array(shard.keep[row, :, :length]))
                yield Tokens(ids, keep), (size[0], size[1])

    def __len__(self) -> int:
        return self.manifest["images"]

    def shard(self, number: int) -> Shard:
        """One shard; ids, labels and masks are mapped, not read."""
        record = self.record(number)
        keys = record["keys"]
        names = ("ids", "labels", *(("keep",) if self.manifest["variable_length"] else ()))
        if not keys:  # all of its images were unreadable
            ids = np.zeros((0, self.views, self.manifest["tokens"], len(self.manifest["vocab_sizes"])), np.uint16)
            return Shard(ids, np.zeros(0, np.int64), [], ids[..., 0] > 0 if "keep" in names else None)
        arrays = {name: read_array(self.folder / f"{name}-{number:05d}.npy") for name in names}
        if self.views == 1:
            arrays = {name: rows if name == "labels" else rows[:, None] for name, rows in arrays.items()}
        return Shard(
            arrays["ids"], arrays["labels"], keys, arrays.get("keep"), record.get("captions"), record.get("texts")
        )

    def record(self, number: int) -> dict[str, Any]:
        """What a shard's own file says of it."""
        path = self.folder / record_name(number)
        record = read_json(path)
        if not isinstance(record, dict) or "keys" not in record:
            raise InputError(f"{path} is damaged; export again")
        return record

    @property
    def captioned(self) -> bool:
        """Whether any image has a caption."""
        return self.manifest.get("captions", 0) > 0

    @property
    def has_several_texts(self) -> bool:
        """Whether any image has several texts."""
        return self.manifest.get("texts", 0) > 0

    @property
    def views(self) -> int:
        """Crops of each image."""
        return len(self.manifest["views"])

    def shards(self) -> Iterator[Shard]:
        """The shards in order."""
        return map(self.shard, range(self.manifest["shards"]))

    def batches(self, batch_size: int, shards: Sequence[int] | None = None) -> Iterator[Tokens]:
        """Tokens in order, ``batch_size`` views of images at a time whatever the size of the shards.

        Args:
            batch_size: Views in every batch but the last, at least 1; all of an image come before the next image's.
            shards: Only of these shards, by number; None = of all.
        """
        ids, keep = list[torch.Tensor](), list[torch.Tensor]()
        for number in range(self.manifest["shards"]) if shards is None else shards:
            shard = self.shard(number)
            views = shard.ids.reshape(-1, *shard.ids.shape[2:])
            kept = None if shard.keep is None else shard.keep.reshape(len(views), -1)
            at = 0
            while at < len(views):
                rows = slice(at, at + batch_size - sum(map(len, ids)))
                ids.append(torch.from_numpy(views[rows].astype(np.int64)))
                if kept is not None:
                    keep.append(torch.from_numpy(np.array(kept[rows])))
                at += len(ids[-1])
                if sum(map(len, ids)) == batch_size:
                    yield Tokens(torch.cat(ids), torch.cat(keep) if keep else None)
                    ids, keep = [], []
        if ids:
            yield Tokens(torch.cat(ids), torch.cat(keep) if keep else None)

    def told(self, shards: Sequence[int] | None = None) -> Iterator[tuple[str, int]]:
        """Caption and label of each view of each image, in the order of ``batches``; "" and -1 where there is none."""
        for number in range(self.manifest["shards"]) if shards is None else shards:
            shard = self.shard(number)
            captions = shard.captions or [""] * len(shard.keys)
            for caption, label in zip(captions, shard.labels.tolist(), strict=True):
                yield from [(caption, label)] * self.views

    @property
    def condition(self) -> ConditionConfig:
        """What the tokenizer was told of all images when they were exported."""
        return ConditionConfig(**self.manifest.get("condition", {}))

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes, by label."""
        return list(self.manifest["classes"])

    def verify(self) -> None:
        """Read every file again; InputError that names the first one that is missing, altered, wrong or not ours."""
        if not is_sealed(self.manifest) or (self.folder / MANIFEST).read_bytes() != as_json(self.manifest):
            raise InputError(f"{self.folder / MANIFEST} was altered (its sha256 is not its own); export again")
        files: dict[str, Any] = self.manifest["files"]
        for name, about in watched(files.items(), len(files), "check", lambda _: 1):
            path = self.folder / name
            if not path.is_file():
                raise InputError(f"{path} is missing; export again")
            if stamp(path) != about:
                raise InputError(f"{path} was altered (its sha256 is not the one in {MANIFEST}); export again")
        strange = {path.name for path in self.folder.iterdir()} - files.keys() - {MANIFEST}
        if strange:
            raise InputError(f"{self.folder / min(strange)} is not in {MANIFEST}; move it elsewhere")
        self.check_contents()

    def check_contents(self) -> None:
        """Check what hashes cannot tell: that the files fit each other and the manifest.

        Raises:
            InputError: That names the first file that does not.
        """
        images, row = 0, (self.views, self.manifest["tokens"], len(self.manifest["vocab_sizes"]))
        for number, shard in enumerate(self.shards()):
            if self.whole and len(shard.keys):
                record = self.record(number)
                row = (row[0], max(record["lengths"]), row[2])
                if len(record["sizes"]) != len(shard.keys) or len(record["lengths"]) != len(shard.keys):
                    raise InputError(f"{self.folder / record_name(number)} lacks sizes of images; export again")
            path = self.folder / f"ids-{number:05d}.npy"
            if shard.ids.shape[1:] != row:
                raise InputError(f"{path} must hold {row} views, tokens and slots, got {shard.ids.shape[1:]}")
            columns = (shard.ids, shard.labels, shard.keys, shard.keep, shard.captions, shard.texts)
            if len({len(rows) for rows in columns if rows is not None}) > 1:
                raise InputError(f"{path} and its labels, keys, masks or captions differ in length; export again")
            check_range(shard.ids.reshape(-1, *row[1:]), self.manifest["vocab_sizes"], path)
            images += len(shard.ids)
        if images != len(self):
            raise InputError(f"{self.folder} must hold {len(self)} images as {MANIFEST} says, got {images}")


def read_array(path: Path) -> np.ndarray:
    """An ``.npy`` file of numbers, mapped and not read.

    Raises:
        InputError: If it is missing, damaged or holds anything else.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is not an .npy file of numbers ({error})") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} is not an .npy file of numbers (it holds several arrays)")
    return array


def check_range(ids: np.ndarray, vocab_sizes: Sequence[int], path: Path, first: int = 0) -> None:
    """Check that ids (last axis: slots) lie in their slots' vocabularies.

    Args:
        ids: ``images tokens slots``, any integer type.
        vocab_sizes: Number of ids of each slot.
        path: Where they are from.
        first: Number of the first image.

    Raises:
        InputError: That names the file, the first wrong id and where it is.
    """
    for slot, size in enumerate(vocab_sizes):
        column = ids[..., slot]
        wrong = np.argwhere((column < 0) | (column >= size))
        if len(wrong):
            image, token = wrong[0]
            raise InputError(
                f"{path}: ids of slot {slot} must lie in [0, {size}), got {column[image, token]} "
                f"at token {token} of image {first + image}"
            )
