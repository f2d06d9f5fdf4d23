"""MaskGen (arXiv 2501.07730) in 1d-tokenizer: tokens and text of images in tar archives.

Its ``PretokenizedWebDataset`` reads two members of a sample: ``token.npy``, the bytes of an array without the header
that such a file has otherwise, and ``txt``. Text is encoded while the generator trains: there are no features of it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from imtok.errors import InputError
from imtok.export.formats.base import Format, Row, rows
from imtok.export.formats.tars import write_tars
from imtok.export.sequences import Sequencing
from imtok.export.store import TokenStore

EXACT = 2048  # float16 holds every whole number up to here


class MaskGen(Format):
    """``tokens-000000.tar``, ...: for each view ``00000000.token.npy``, ``.txt`` and ``.json`` (key, view, class).

    As published, the reader takes the bytes of a token file for float16, and its trainer never makes whole numbers of
    them: that fits the latents of its KL variant. For ids one line there has to be another one, which the notes name.
    Where an image leaves tokens out there is the padding id, since the loader stacks samples.

    Args:
        slots: What becomes of several slots: "interleave", "shared", "combine", or None where there is one.
        dtype: "int64", which embeddings take, or "float16", which the published reader takes.
        uncaptioned: Text of images without a caption; None = there must be none.
        samples_per_file: Views per archive, at least 1.

    Raises:
        ValueError: If ``dtype`` is another one or ``samples_per_file`` is not positive.
    """

    def __init__(
        self,
        slots: str | None = None,
        dtype: str = "int64",
        uncaptioned: str | None = None,
        samples_per_file: int = 10_000,
    ) -> None:
        if dtype not in ("int64", "float16"):
            raise ValueError(f"dtype must be int64 or float16, got {dtype!r}")
        if samples_per_file < 1:
            raise ValueError(f"samples_per_file must be at least 1, got {samples_per_file}")
        self.slots, self.dtype, self.uncaptioned, self.samples_per_file = slots, dtype, uncaptioned, samples_per_file

    @override
    def check(self, store: TokenStore, folder: Path) -> None:
        sequencing = Sequencing.of(store, self.slots)
        if self.dtype == "float16" and sequencing.top - 1 > EXACT:
            raise InputError(
                f"format.dtype=float16 holds no ids beyond {EXACT}, and there are ids up to {sequencing.top - 1}; give "
                "format.dtype=int64"
            )
        for shard in store.shards() if self.uncaptioned is None else ():
            captions = shard.captions or [""] * len(shard.keys)
            for key, caption in zip(shard.keys, captions, strict=True):
                if not caption:
                    raise InputError(f"{key} has no caption; give format.uncaptioned=TEXT, the text of such images")

    @override
    def write(self, store: TokenStore, folder: Path) -> dict[str, Any]:
        sequencing = Sequencing.of(store, self.slots)
        samples = (sample for row in rows(store, sequencing) for sample in self._samples(row))
        files = write_tars(folder, samples, self.samples_per_file)
        count = len(store) * store.views
        notes = [
            f"{count} samples in tokens-{{000000..{files - 1:06d}}}.tar",
            f"model.vq_model.codebook_size={sequencing.vocabulary} "
            f"model.vq_model.num_latent_tokens={sequencing.length} experiment.max_train_examples={count}",
            "model.maskgen.micro_condition=False, since there are no aesthetic scores",
            "in data/webdataset_reader.py decode_npy must read np.int64"
            if self.dtype == "int64"
            else "in utils/train_utils.py the trainer must take batch['tokens'].long()",
        ]
        return {"sequence": sequencing.about, "dtype": self.dtype, "notes": notes}

    def _samples(self, row: Row) -> Iterator[dict[str, bytes]]:
        text = (row.caption or self.uncaptioned or "").encode("utf-8", "backslashreplace")
        for view, tokens in enumerate(row.views):
            story = {"key": row.key, "view": view, "label": row.label}
            yield {
                "token.npy": tokens.astype(np.dtype(self.dtype).newbyteorder("<")).tobytes(),
                "txt": text,
                "json": json.dumps(story).encode(),
            }
