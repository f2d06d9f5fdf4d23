"""RAR (arXiv 2411.00776), MaskGIT in its repository, and RobustTok's RAR: one JSON object per line."""

import json
from pathlib import Path
from typing import Any

from typing_extensions import override

from imtok.export.formats.base import Format, class_of, rows
from imtok.export.sequences import Sequencing
from imtok.export.store import TokenStore

FILE = "tokens.jsonl"


class RAR(Format):
    """``tokens.jsonl``: ``{"class_id": 7, "tokens": [...]}`` per view, the views of an image after each other.

    Ids go from 0; the model itself puts classes and its mask behind them. Where an image leaves tokens out there is the
    padding id: the loader stacks lists, which must all be as long.

    Args:
        slots: What becomes of several slots: "interleave", "shared", "combine", or None where there is one.
        unlabelled: Class of images without one; None = there must be none.
    """

    def __init__(self, slots: str | None = None, unlabelled: int | None = None) -> None:
        self.slots, self.unlabelled = slots, unlabelled

    @override
    def check(self, store: TokenStore, folder: Path) -> None:
        Sequencing.of(store, self.slots)

    @override
    def write(self, store: TokenStore, folder: Path) -> dict[str, Any]:
        sequencing, classes = Sequencing.of(store, self.slots), len(store.classes)
        with (folder / FILE).open("w", encoding="ascii") as file:
            for row in rows(store, sequencing):
                label = class_of(row, self.unlabelled)
                classes = max(classes, label + 1)
                for tokens in row.views.tolist():
                    file.write(json.dumps({"class_id": label, "tokens": tokens}) + "\n")
        notes = [
            f"dataset.params.pretokenization=DIR/{FILE} model.vq_model.codebook_size={sequencing.vocabulary} "
            f"model.generator.image_seq_len={sequencing.length} model.generator.condition_num_classes={classes}"
        ]
        return {"sequence": sequencing.about, "classes": classes, "notes": notes}
