"""nanoGPT and its kin: one stream of tokens, in which each image begins, says its class, and ends.

Its ``sample.py`` prompts and prints text, a character per token: the line end begins an image, and each other number
stands for one character of Unicode from ``FIRST`` on. So its output is a line per image.
"""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from typing_extensions import override

from imtok.data.archives.names import hash_fraction
from imtok.errors import InputError
from imtok.export.formats.base import Format, rows
from imtok.export.sequences import Place, Sequencing
from imtok.export.store import TokenStore
from imtok.files import write_json

TYPES = {"uint16": 2**16, "uint32": 2**32}
FIRST = 0x10000  # the character of number 0: from here on there are no surrogates and no line ends
CHARACTERS = 0x110000 - FIRST


class NanoGPT(Format):
    """``train.bin`` and ``val.bin`` without header, ``vocab.json`` with all offsets, and for nanoGPT ``meta.pkl``.

    Each view of an image is ``begin class tokens... end``. In the vocabulary codes come first, then (where images leave
    tokens out) padding, the classes, ``no_class``, ``begin`` and ``end``; all of these from ``offset`` on. All views of
    an image are on one side of the split, which depends on its key alone.

    ``meta.pkl`` holds ``vocab_size`` for ``train.py``, and ``stoi`` and ``itos`` for ``sample.py``: plain numbers and
    characters, which :func:`from_text` turns into numbers again. imtok itself reads no pickle.

    Args:
        slots: What becomes of several slots: "interleave", "shared", "combine", or None where there is one.
        val_fraction: Part of the images in ``val.bin``, in [0, 1).
        dtype: "uint16", which nanoGPT reads, or "uint32".
        offset: Added to every number but ``begin`` and ``end``, if those are given: the size of a text vocabulary, say.
        begin: The number before each image; None = the one after ``no_class``.
        end: The number after each image; None = the next free one.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        slots: str | None = None,
        val_fraction: float = 0.01,
        dtype: str = "uint16",
        offset: int = 0,
        begin: int | None = None,
        end: int | None = None,
    ) -> None:
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction must lie in [0, 1), got {val_fraction}")
        if dtype not in TYPES:
            raise ValueError(f"dtype must be uint16 or uint32, got {dtype!r}")
        self.slots, self.val_fraction, self.dtype = slots, val_fraction, dtype
        self.place = Place(offset, begin, end).check()

    @override
    def check(self, store: TokenStore, folder: Path) -> None:
        sequencing = Sequencing.of(store, self.slots, self.place)
        vocab = vocabulary(sequencing, _classes(store))
        taken = range(sequencing.offset, vocab["no_class"] + 1)
        for name, number in (("begin", sequencing.begin), ("end", sequencing.end)):
            if number in taken:
                raise InputError(
                    f"format.{name}={number} is also the number of a class or of images without one, since images "
                    f"have {taken[0]} to {taken[-1]}; give a number outside of these, or null"
                )
        if vocab["vocab_size"] > TYPES[self.dtype]:
            raise InputError(
                f"the vocabulary of {vocab['vocab_size']} does not fit {self.dtype}; give format.dtype=uint32 and read "
                "it as np.uint32, or format.slots=interleave"
            )

    @override
    def write(self, store: TokenStore, folder: Path) -> dict[str, Any]:
        sequencing = Sequencing.of(store, self.slots, self.place)
        vocab = vocabulary(sequencing, _classes(store))
        counts = {"train": 0, "val": 0}
        with (folder / "train.bin").open("wb") as train, (folder / "val.bin").open("wb") as val:
            files: dict[str, BinaryIO] = {"train": train, "val": val}
            for row in rows(store, sequencing):
                key = row.key.encode("utf-8", "backslashreplace").decode()
                side = "val" if hash_fraction(key) < self.val_fraction else "train"
                name = vocab["no_class"] if row.label < 0 else vocab["classes"]["offset"] + row.label
                for tokens, length in zip(row.views, row.lengths.tolist(), strict=True):
                    stream = np.concatenate([[vocab["begin"], name], tokens[:length], [vocab["end"]]])
                    files[side].write(stream.astype(f"<{np.dtype(self.dtype).str[1:]}").tobytes())
                    counts[side] += len(stream)
        write_json(folder / "vocab.json", {**vocab, "dtype": self.dtype, "first_character": FIRST})
        (folder / "meta.pkl").write_bytes(pickle.dumps(_meta(vocab), protocol=2))
        block = sequencing.length + 3
        notes = [f"{counts['train']} tokens in train.bin, {counts['val']} in val.bin; block_size {block} is one image"]
        short = [name for name, count in counts.items() if count <= block]
        if short:
            notes.append(
                f"{' and '.join(short)}.bin must have more than block_size tokens to be sampled from: change "
                f"format.val_fraction={self.val_fraction:g} or take more images"
            )
        return {"sequence": sequencing.about, "vocab": vocab, "streams": counts, "notes": notes}


def vocabulary(sequencing: Sequencing, classes: int) -> dict[str, Any]:
    """Where each kind of token lies in the vocabulary of a stream."""
    first = sequencing.top
    no_class = first + classes
    begin = no_class + 1 + (sequencing.end == no_class + 1) if sequencing.begin is None else sequencing.begin
    end = max(no_class, begin) + 1 if sequencing.end is None else sequencing.end
    return {
        "codes": {"offset": sequencing.offset, "size": sequencing.codes},
        "padding": sequencing.padding,
        "classes": {"offset": first, "size": classes},
        "no_class": no_class,
        "begin": begin,
        "end": end,
        "vocab_size": max(no_class, begin, end) + 1,
    }


def to_text(numbers: Sequence[int], vocab: Mapping[str, Any]) -> str:
    """Numbers of a stream as ``sample.py`` prompts and prints them.

    Args:
        numbers: In the vocabulary.
        vocab: What ``vocab.json`` holds.
    """
    return "".join("\n" if number == vocab["begin"] else chr(FIRST + number) for number in numbers)


def from_text(text: str, vocab: Mapping[str, Any]) -> list[int]:
    """What ``to_text`` was given: a prompt, or what ``sample.py`` printed for a sample.

    Raises:
        InputError: If a character stands for no number.
    """
    numbers = [vocab["begin"] if character == "\n" else ord(character) - FIRST for character in text]
    wrong = next((text[place] for place, one in enumerate(numbers) if not 0 <= one < vocab["vocab_size"]), None)
    if wrong is not None:
        raise InputError(
            f"{wrong!r} stands for no token: sample.py's text has line ends and characters from U+10000 on"
        )
    return numbers


def _meta(vocab: Mapping[str, Any]) -> dict[str, Any]:
    """What nanoGPT reads of ``meta.pkl``; of a vocabulary beyond Unicode the size alone."""
    size = vocab["vocab_size"]
    if size > CHARACTERS:
        return {"vocab_size": size}
    itos = dict(enumerate(to_text(range(size), vocab)))
    return {"vocab_size": size, "itos": itos, "stoi": {character: number for number, character in itos.items()}}


def _classes(store: TokenStore) -> int:
    """Classes that are named or used."""
    return max(len(store.classes), *(int(shard.labels.max(initial=-1)) + 1 for shard in store.shards()))
