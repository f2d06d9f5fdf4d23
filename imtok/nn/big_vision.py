"""Weights of SigLIP and SigLIP2 as their authors publish them: an ``.npz`` of big_vision."""

import re
import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from imtok.errors import InputError
from imtok.nn.vit_names import WeightNames

_BLOCK = "Transformer/encoderblock_#"
_ATTENTION, _MLP = f"{_BLOCK}/MultiHeadDotProductAttention_0", f"{_BLOCK}/MlpBlock_0"

BIG_VISION = WeightNames(
    "big_vision",
    "embedding/kernel",
    {
        "embedding/kernel": "patches.weight",
        "embedding/bias": "patches.bias",
        "pos_embedding": "positions",
        "Transformer/encoder_norm/scale": "norm.weight",
        "Transformer/encoder_norm/bias": "norm.bias",
        **{
            f"{_BLOCK}/LayerNorm_{place}/{theirs}": f"blocks.#.norm{place + 1}.{ours}"
            for place in (0, 1)
            for theirs, ours in (("scale", "weight"), ("bias", "bias"))
        },
        **{
            f"{stem}/{theirs}/{leaf}": f"blocks.#.{ours}.{kind}"
            for stem, theirs, ours in (
                (_ATTENTION, "query", "query"),
                (_ATTENTION, "key", "key"),
                (_ATTENTION, "value", "value"),
                (_ATTENTION, "out", "project"),
                (_MLP, "Dense_0", "in"),
                (_MLP, "Dense_1", "out"),
            )
            for leaf, kind in (("kernel", "weight"), ("bias", "bias"))
        },
    },
    {"MAPHead_0/?": "attention pooling", "head/?": "a projection"},
    {"params/txt/?": "the text tower", "params/t": "the temperature", "params/b": "the bias of the loss"},
)


def read_big_vision(path: Path) -> dict[str, Tensor]:
    """Its tensors by their names, each laid out as torch has it, one name for each block where blocks are stacked.

    Raises:
        InputError: If the file cannot be read. Nothing is unpickled.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, BadZipFile, zlib.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} cannot be read ({reason}); get the file again") from None
    found: dict[str, Tensor] = {}
    for name, array in arrays.items():
        if "Transformer/encoderblock/" in name:
            for block, one in enumerate(array):
                found[name.replace("encoderblock/", f"encoderblock_{block}/")] = _laid_out(name, one)
        else:
            found[name] = _laid_out(name, array)
    return found


def _laid_out(name: str, array: np.ndarray) -> Tensor:
    value = torch.from_numpy(np.ascontiguousarray(array)).float()
    if name.endswith("embedding/kernel"):
        return value.permute(3, 2, 0, 1)
    if re.search(r"/(query|key|value)/(kernel|bias)$", name):
        return value.flatten(-2).mT if name.endswith("kernel") else value.flatten()
    if name.endswith("/out/kernel"):
        return value.flatten(0, 1).mT
    return value.mT if name.endswith("kernel") and value.ndim == 2 else value
