"""The tokens of another tokenizer that a prior reads as its condition, for the same images."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from imtok.conditions.tokens import OtherTokens
from imtok.errors import InputError
from imtok.export.store import MANIFEST, Shard, TokenStore
from imtok.files import read_json
from imtok.priors.generator import Generator
from imtok.priors.rows import TokenRows

SAMPLES = "samples.json"


@dataclass(frozen=True)
class OtherStore:
    """A token store whose ids are found by the names of images.

    Attributes:
        store: The store, with all tokens of each image.
    """

    store: TokenStore
    _shards: list[Shard] = field(default_factory=list)
    _places: dict[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str, beside: TokenStore) -> "OtherStore":
        """Open a store that has the images of another one.

        Args:
            folder: The folder of the store.
            beside: The store whose images it must hold, by their names.

        Raises:
            InputError: If the store is damaged, leaves out tokens, has other views, or lacks an image.
        """
        store = TokenStore(folder)
        store.check_contents()
        if store.manifest["variable_length"]:
            raise InputError(f"condition.store={folder} leaves out tokens of some images; give one with all tokens")
        if store.views not in (1, beside.views):
            raise InputError(
                f"condition.store={folder} has {store.views} views of each image and store={beside.folder} has "
                f"{beside.views}; export both in the same way"
            )
        shards = list(store.shards())
        places = {key: (number, row) for number, shard in enumerate(shards) for row, key in enumerate(shard.keys)}
        lacking = [key for shard in beside.shards() for key in shard.keys if key not in places]
        if lacking:
            raise InputError(
                f"condition.store={folder} lacks {len(lacking)} of the {len(beside)} images of {beside.folder}, "
                f"{lacking[0]} among them; export both from the same data"
            )
        return cls(store, shards, places)

    @property
    def sha256(self) -> str | None:
        """The sha256 of all files of the store."""
        return self.store.manifest.get("sha256")

    @property
    def facts(self) -> dict[str, Any]:
        """The sizes of the tokens, as arguments of :class:`~imtok.conditions.tokens.OtherTokens`."""
        manifest = self.store.manifest
        names = ("tokens", "vocab_sizes", "tokenizer_sha256")
        return {name: manifest[name] for name in names}

    def of(self, key: str, view: int) -> Int64[np.ndarray, "t g"]:
        """The ids of a view of an image."""
        shard, row = self._places[key]
        return self._shards[shard].ids[row, view if self.store.views > 1 else 0].astype(np.int64)


def told_ids(generator: Generator, folder: str | None, count: int) -> Int64[Tensor, "b t g"] | None:
    """The ids that samples are conditioned on: of images from all over a store, or the first of a folder of samples.

    Args:
        generator: The prior.
        folder: The folder of ``condition.store``; None = the key is not set.
        count: Number of samples.

    Returns:
        The ids; None for a prior without this condition.

    Raises:
        InputError: If the prior needs tokens and there are none, too few, or those of another tokenizer; or if it
            needs none and ``folder`` is given.
    """
    condition = generator.condition
    if not isinstance(condition, OtherTokens):
        if folder is not None:
            raise InputError(
                f"condition.store={folder}: this prior does not read tokens of another tokenizer; leave the key out"
            )
        return None
    if folder is None:
        raise InputError(
            "condition.store=FOLDER must be given: this prior turns tokens of another tokenizer into those of its own; "
            "give a store of them, or samples of a prior of them"
        )
    path = Path(folder)
    if (path / MANIFEST).is_file():
        store = TokenStore(path)
        store.check_contents()
        rows, by = TokenRows(store).some(count), store.manifest["tokenizer_sha256"]
        ids = np.stack([rows[image * store.views][0] for image in range(len(rows.images))])  # of the first view
    elif (path / SAMPLES).is_file() and (path / "ids.npy").is_file():
        ids = np.load(path / "ids.npy", allow_pickle=False)[:count].astype(np.int64)
        by = read_json(path / SAMPLES).get("tokenizer_sha256")
    else:
        raise InputError(f"condition.store={folder} is neither a token store nor a folder of imtok sample")
    if by != condition.tokenizer_sha256:
        raise InputError(f"condition.store={folder} has tokens of another tokenizer than those that the prior is told")
    if len(ids) < count:
        raise InputError(
            f"condition.store={folder} has tokens of {len(ids)} images for n={count} samples; give n={len(ids)}"
        )
    return torch.from_numpy(ids)
