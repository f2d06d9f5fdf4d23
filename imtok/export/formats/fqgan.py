"""FQGAN (arXiv 2411.16681): LlamaGen's trees with a file per sub-codebook.

Nothing is said of its loader and its trainer but the names, shapes and types of the files that they read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from imtok.errors import InputError
from imtok.export.formats.base import Row
from imtok.export.formats.llamagen import LlamaGen, check_ten_crop
from imtok.export.sequences import Sequencing
from imtok.export.store import TokenStore

NAMES = {2: ("vis", "sem"), 3: ("vis", "sem_mid", "sem_high")}


class FQGAN(LlamaGen):
    """``imagenetS_codes/I_NAME.npy`` of shape ``(1, views, tokens)`` for each slot, labels as LlamaGen's.

    Where images leave tokens out, the size of a slot's vocabulary is its padding id.

    Args:
        names: Of the slots; None = vis, sem for two, vis, sem_mid, sem_high for three.
        unlabelled: Class of images without one; None = there must be none.
        fill: Add links to the first images until there are so many; None = don't.
    """

    def __init__(
        self, names: Sequence[str] | None = None, unlabelled: int | None = None, fill: int | None = None
    ) -> None:
        super().__init__("interleave", unlabelled, fill)
        for name in names or ():
            if not name.replace("_", "").isalnum():
                raise ValueError(f"names must be letters, digits and _, got {name!r}")
        self.names = None if names is None else tuple(names)

    @override
    def check(self, store: TokenStore, folder: Path) -> None:
        slots = len(store.manifest["vocab_sizes"])
        names = self.names or NAMES.get(slots, ())
        if len(names) != slots or len(set(names)) != slots:
            raise InputError(f"format.names must name each of the {slots} slots, got {list(names)}")
        if store.views > 1 and "flip" not in folder.name:
            raise InputError(f"out={folder} must have flip in its name, as for LlamaGen: it holds {store.views} views")
        check_ten_crop(store, folder)

    @override
    def arrays(self, row: Row, sequencing: Sequencing) -> dict[str, np.ndarray]:
        sizes = sequencing.vocab_sizes
        names, starts = self.names or NAMES[len(sizes)], np.cumsum((0, *sizes[:-1]))
        slots = row.views.reshape(len(row.views), sequencing.tokens, len(sizes))
        own = np.where(slots == sequencing.codes, np.array(sizes), slots - starts)
        return {f"_{name}": own[None, ..., slot] for slot, name in enumerate(names)}

    @override
    def about(self, sequencing: Sequencing) -> dict[str, Any]:
        sizes = sequencing.vocab_sizes
        facts = {"names": list(self.names or NAMES[len(sizes)]), "vocab_sizes": list(sizes)}
        return {**facts, "tokens": sequencing.tokens, "padding": list(sizes) if sequencing.variable_length else None}

    @override
    def notes(self, store: TokenStore, sequencing: Sequencing) -> list[str]:
        sizes = ", ".join(str(size + sequencing.variable_length) for size in sequencing.vocab_sizes)
        names = self.names or NAMES[len(sequencing.vocab_sizes)]
        slots = ", ".join(f"slot {slot} is _{name}.npy" for slot, name in enumerate(names))
        return [
            f"{slots}; vocabularies {sizes}, {sequencing.tokens} tokens per image",
            f"{max(len(store), self.fill or 0)} images; format.fill=NUMBER adds links where a loader counts on more",
        ]
