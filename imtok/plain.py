"""The words of the commands that need no config: check, compare, import, info and verify."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imtok.errors import InputError

# What a path that stands alone is for each command whose config Hydra composes.
PATH_OF = {
    "train": "data=folder data.path=", "eval": "tokenizer=", "export": "tokenizer=", "convert": "store=",
    "publish": "tokenizer=", "quantize": "tokenizer=", "decode": "tokenizer=", "score": "images=",
    "pack": "data=folder data.path=", "prior": "store=", "classify": "store=", "adapt": "store=",
    "sample": "generator=", "probe": "tokenizer=",
}  # fmt: skip

# Short words, and words of before, of each command, by what they stand for. Hydra takes prior=RUN for an option.
_SHORT = {
    "eval": {
        "metrics": "measure", "pfid.alphas": "measure.pfid.alphas", "pfid.deltas": "measure.pfid.deltas",
        "lengths": "measure.rate.lengths", "length_target": "measure.length.target",
        "backbone": "measure.lpips.backbone", "dino": "measure.fdd.extractor.weights",
    },
    "sample": {"prior": "generator"},
}  # fmt: skip
_BEFORE = {"trainer.evaluate_metrics": "measure"}


def short_words(command: str) -> dict[str, str]:
    """The words of a command that stand for keys of its config, by what they stand for."""
    return {**_SHORT.get(command, {}), **(_BEFORE if command in ("train", "eval") else {})}


def with_path(command: str, words: Sequence[str]) -> list[str]:
    """A command line in which a path that stands first is the value of the key that the command takes it for.

    A word is a path if it is there, names the hub, or has a slash. Others are left to the check of keys.

    Example:
        >>> with_path("eval", ["runs/mine", "metrics=[psnr]"])
        ['tokenizer=runs/mine', 'metrics=[psnr]']
        >>> with_path("train", ["photos/mine", "out=runs/mine"])
        ['data=folder', 'data.path=photos/mine', 'out=runs/mine']
        >>> with_path("pack", ["shards/mine", "data=tars"])
        ['data.path=shards/mine', 'data=tars']
    """
    at = next((index for index, word in enumerate(words) if not word.startswith("-")), None)
    if at is None or command not in PATH_OF or "=" in words[at] or words[at + 1 : at + 2] == ["="]:
        return list(words)
    word = words[at]
    if not ("/" in word or word.startswith("hf:") or Path(word).exists()) or word.startswith(("+", "~")):
        return list(words)
    *before, key = PATH_OF[command].split(" ")
    before = [] if any(one.startswith("data=") for one in words) else before
    return [*words[:at], *before, f"{key}{word}", *words[at + 1 :]]


@dataclass(frozen=True)
class Plain:
    """What a command takes.

    Attributes:
        takes: All of it in a sentence.
        example: A line that works.
        paths: Least and largest number of paths.
        name: What a path may be called, as in ``path=DIR``; empty = nothing.
        keys: What each ``KEY=VALUE`` means.
    """

    takes: str
    example: str
    paths: tuple[int, int] = (1, 1)
    name: str = ""
    keys: dict[str, str] = field(default_factory=dict)

    def help(self) -> str:
        """The text of ``--help``."""
        width = max(map(len, self.keys), default=0)
        keys = "".join(f"  {key:{width}}  {what}\n" for key, what in self.keys.items())
        return f"{self.takes}\n\n  {self.example}\n" + (f"\n{keys}" if keys else "")


PLAIN = {
    "check": Plain(
        "imtok check takes a folder of images, shards or tables, --workers N, data.image=NAME data.caption=NAME "
        "data.label=NAME as a run has them, and for plain archives data=tars data.labels=folder",
        "imtok check photos --workers 4",
        name="path",
        keys={
            "workers": "processes that read, 0 = this one",
            "data": "webdataset, or tars for archives without samples",
            "data.labels": "what the classes of plain archives are: folder, archive or member",
            "data.image": "the field of a sample, or the column, that is the image",
            "data.caption": "the field, json.KEY or the column that is the caption",
            "data.label": "the field, json.KEY or the column that is the class",
        },
    ),
    "compare": Plain(
        "imtok compare takes two or more folders that imtok eval wrote, and out=DIR for the page",
        "imtok compare report_a report_b out=compared",
        (2, 999),
        keys={"out": "the folder of comparison.html and comparison.md; runs/compare/TIME without it"},
    ),
    "import": Plain(
        "imtok import takes source=NAME path=FILE out=DIR, and image_size, heads, groups, slots and normalize",
        "imtok import source=llamagen path=vq_ds16_c2i.pt out=llamagen",
        (0, 0),
        keys={
            "source": "the code that wrote the checkpoint (docs/zoo.md)",
            "path": "the checkpoint file",
            "out": "the folder of the tokenizer",
            "image_size": "side of the images in pixels, if the checkpoint does not say it",
            "heads": "attention heads of its transformers, if they are not one per 64 channels",
            "groups": "groups in each norm of its convolutions, if they are not 32",
            "slots": "sub-codes that the bits of a token are, if they are not as in its generators",
            "normalize": "true or false: whether latents and codes have unit length, if the checkpoint does not say it",
        },
    ),
    "info": Plain(
        "imtok info takes one argument: a run folder, a tokenizer folder or hf:org/name[@revision]",
        "imtok info runs/mine",
        name="tokenizer",
    ),
    "verify": Plain(
        "imtok verify takes a folder, and to decode a sample of it tokenizer=RUN out=DIR",
        "imtok verify tokens tokenizer=runs/mine out=sample",
        keys={
            "tokenizer": "the tokenizer that made the ids",
            "out": "the folder of the pictures",
            "length": "only the first so many tokens of each image",
            "target": "the fewest tokens that reach 25dB against the picture of all, or ssim:0.9, lpips:0.2, ...",
            "bits": "per channel of the pictures: 8, or 16 for 65,536 levels of grey",
            "condition.quality": "a wanted quality for all images; that of the store without it",
            "condition.weights": "the file of the frozen net that the tokenizer names, if it names one",
        },
    ),
}


@dataclass(frozen=True)
class GivenWords:
    """What was given.

    Attributes:
        paths: Words without a key.
        keys: Values by key.
    """

    paths: list[str]
    keys: dict[str, str]


def read_words(name: str, words: Sequence[str]) -> GivenWords:
    """The words of a plain command; ``--key VALUE`` and ``--key=VALUE`` are ``key=VALUE``, ``~`` is the home folder.

    Raises:
        InputError: If a word is none of the command's, is given twice, or a path is missing.

    Example:
        >>> read_words("check", ["photos", "--workers", "4"])
        GivenWords(paths=['photos'], keys={'workers': '4'})
    """
    plain, found = PLAIN[name], GivenWords([], {})
    left = iter(words)
    for word in left:
        key, equal, value = word.removeprefix("--").partition("=")
        if key in plain.keys and (equal or word.startswith("--")):
            if key in found.keys:
                raise InputError(
                    f"{key} is given twice, {found.keys[key]} and {value or next(left, '')}; {plain.takes}"
                )
            found.keys[key] = _home(value if equal else next(left, ""))
        elif not (value if equal and key in (plain.name, f"data.{plain.name}") else word).strip():
            raise InputError(f"a path is empty; {plain.takes}")
        elif equal and key in (plain.name, f"data.{plain.name}"):  # as the commands with a config call it
            found.paths.append(_home(value))
        elif word.startswith("-") or (equal and not Path(word).exists()):
            close = difflib.get_close_matches(key, plain.keys, n=1)
            meant = f"did you mean {close[0]}? " if close else ""
            raise InputError(f"{word}: no such argument; {meant}{plain.takes}")
        else:
            found.paths.append(_home(word))
    least, most = plain.paths
    if len(found.paths) < least:
        raise InputError(plain.takes)
    if len(found.paths) > most:
        raise InputError(f"{found.paths[most]}: one argument too many; {plain.takes}")
    return found


def _home(path: str) -> str:
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        raise InputError(f"{path}: there is no such user; for a folder of that name give ./{path}") from None
