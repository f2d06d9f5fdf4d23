"""GigaTok (arXiv 2504.08736) and ReTok (arXiv 2411.13881): LlamaGen's trees with one axis less."""

from pathlib import Path

import numpy as np
from typing_extensions import override

from imtok.export.formats.base import Row, class_of
from imtok.export.formats.llamagen import LlamaGen, check_ten_crop
from imtok.export.sequences import Sequencing
from imtok.export.store import TokenStore


class GigaTok(LlamaGen):
    """``imagenetS_codes/I.npy`` of shape ``(views, tokens)`` and ``imagenetS_labels/I.npy`` of shape ``()``, int64.

    Its loader takes one view at random, and half of the time the twin folder ``ten_crop_105``. Arguments:
    :class:`~imtok.export.formats.llamagen.LlamaGen`.
    """

    @override
    def check(self, store: TokenStore, folder: Path) -> None:
        Sequencing.of(store, self.slots)
        check_ten_crop(store, folder)

    @override
    def arrays(self, row: Row, sequencing: Sequencing) -> dict[str, np.ndarray]:
        return {"": row.views}

    @override
    def label(self, row: Row) -> np.ndarray:
        return np.array(class_of(row, self.unlabelled), dtype=np.int64)

    @override
    def notes(self, store: TokenStore, sequencing: Sequencing) -> list[str]:
        return [note for note in super().notes(store, sequencing) if "square" not in note]
