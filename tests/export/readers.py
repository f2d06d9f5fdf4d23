"""Readers of token data sets, written from what each consumer's documentation and loader say they expect."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import torch


def llamagen(root: Path, side: int, number: int, view: int | None):
    """LlamaGen's loader and its trainer's reshape: one view at random where ``flip`` is in the path, else all of them.

    Returns ids ``tokens`` as the model gets them, and the label as its embedding wants it.
    """
    codes = root / f"imagenet{side}_codes"
    features = np.load(codes / f"{number}.npy", allow_pickle=False)
    if "flip" in str(root.name):
        features = features[:, view]
    label = np.load(root / f"imagenet{side}_labels/{number}.npy", allow_pickle=False)
    x, y = torch.from_numpy(features)[None], torch.from_numpy(label)[None]  # a batch of one
    assert x.dtype == y.dtype == torch.int64  # embeddings take nothing shorter without a cast
    return x.reshape(1, -1)[0], y.reshape(-1)


def gigatok(root: Path, side: int, number: int, view: int):
    """GigaTok's loader: ``(views, tokens)``, of which one row is taken; labels without an axis."""
    features = np.load(root / f"imagenet{side}_codes/{number}.npy", allow_pickle=False)
    label = np.load(root / f"imagenet{side}_labels/{number}.npy", allow_pickle=False)
    assert features.ndim == 2
    assert label.shape == ()
    assert features.dtype == label.dtype == np.int64
    return torch.from_numpy(features[view]), torch.from_numpy(label)


def rar(path: Path):
    """RAR's loader: a line is an object with ``class_id`` and ``tokens``; lines are counted, not named."""
    for line in path.read_text().splitlines():
        item = json.loads(line.strip())
        assert item.keys() == {"class_id", "tokens"}
        yield torch.tensor(item["tokens"]), torch.tensor(item["class_id"])


def nanogpt(path: Path, vocab: dict, dtype=np.uint16):
    """NanoGPT's memory map of the stream, cut where images begin and end."""
    stream = np.memmap(path, dtype=dtype, mode="r").astype(np.int64)
    begins = np.flatnonzero(stream == vocab["begin"])
    ends = np.flatnonzero(stream == vocab["end"])
    assert len(begins) == len(ends)
    for begin, end in zip(begins, ends, strict=True):
        label = stream[begin + 1] - vocab["classes"]["offset"]
        yield stream[begin + 2 : end], -1 if stream[begin + 1] == vocab["no_class"] else int(label)


def webdataset(paths: list[Path]):
    """Members grouped by the part of their name before the first dot, as webdataset groups them."""
    for path in paths:
        samples: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path) as archive:
            for member in archive:
                stem, suffix = member.name.split(".", 1)
                file = archive.extractfile(member)
                assert file is not None
                samples.setdefault(stem, {})[suffix] = file.read()
        for sample in samples.values():
            arrays = {k: np.load(io.BytesIO(v), allow_pickle=False) for k, v in sample.items() if k.endswith("npy")}
            yield arrays, int(sample.get("cls", b"-1")), json.loads(sample["json"])["key"]
