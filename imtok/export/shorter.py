"""The first tokens of each image of a store, of a tokenizer whose first tokens stand alone."""

from dataclasses import replace

import numpy as np
from typing_extensions import override

from imtok.errors import InputError
from imtok.export.store import Shard, TokenStore


class ShortStore(TokenStore):
    """A store whose images have the first few tokens of another one's. Nothing is written.

    Args:
        store: The other one.
        length: Tokens of each image; those that have fewer keep what they have.

    Raises:
        InputError: If the first tokens are no code of fewer tokens, or there are not so many.
    """

    def __init__(self, store: TokenStore, length: int) -> None:
        manifest, said = store.manifest, f"length={length}"
        if not manifest.get("prefixes"):
            why = (
                "of its tokenizer the first tokens are no code of fewer tokens"
                if manifest.get("prefixes") is False
                else "its tokenizer always takes all of its tokens, or the store is of an earlier version of imtok"
            )
            raise InputError(f"{said}: {why} ({store.folder}); export the images with {said}, where it can be")
        if length > manifest["tokens"]:
            raise InputError(f"{said}: {store.folder} has {manifest['tokens']} tokens for each image")
        self.store, self.length, self.folder = store, length, store.folder
        masks = (shard.keep for shard in store.shards() if shard.keep is not None)
        varies = any(not bool(mask[..., :length].all()) for mask in masks)
        self.manifest = {**manifest, "tokens": length, "variable_length": varies}

    @override
    def shard(self, number: int) -> Shard:
        shard, varies = self.store.shard(number), self.manifest["variable_length"]
        keep = np.asarray(shard.keep)[..., : self.length] if varies and shard.keep is not None else None
        return replace(shard, ids=shard.ids[..., : self.length, :], keep=keep)

    @override
    def verify(self) -> None:
        self.store.verify()
