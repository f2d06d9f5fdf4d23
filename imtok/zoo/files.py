"""Checkpoint files of other code: tensors and plain values are read, and nothing in them is run."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from imtok.errors import InputError
from imtok.files import read_json


class Leftover:
    """Stands for an object of a training library that lies in a checkpoint beside the weights. It does nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


# Objects of these classes lie in published files. None of them is built: a leftover or a dict takes its place.
_LEFTOVERS = (
    "argparse.Namespace",
    "pathlib.PosixPath",
    "typing.Any",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
)
_DICTS = (
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
_PLAIN = (bool, dict, float, int, list, str, tuple)  # configs of omegaconf name them as types


def _empty(*_: Any) -> dict[Any, Any]:
    """Takes the place of a defaultdict."""
    return {}


_ALLOWED: list[Any] = [(Leftover, name) for name in _LEFTOVERS] + [(OrderedDict, name) for name in _DICTS]
_ALLOWED += [(kind, f"builtins.{kind.__name__}") for kind in _PLAIN] + [(_empty, "collections.defaultdict")]


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        path: The file.
        content: Tensors by name, or a dict that holds such dicts and other things.
        metadata: What a safetensors file says of itself.
    """

    path: Path
    content: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def tensors(self, *entries: str) -> dict[str, Tensor]:
        """The tensors of the first of ``entries`` that the file has; of the file itself where it has none of them.

        Raises:
            InputError: If what is there is no dict of tensors.
        """
        name = next((entry for entry in entries if isinstance(self.content.get(entry), Mapping)), None)
        found = self.content if name is None else self.content[name]
        if not found or not all(isinstance(value, Tensor) for value in found.values()):
            held = ", ".join(map(str, list(found)[:8])) or "nothing"
            wanted = f" or one below {', '.join(entries)}" if entries else ""
            raise InputError(f"{self.path} must hold tensors by name{wanted}, got {held}")
        return dict(found)

    def beside(self, name: str = "config.json") -> dict[str, Any]:
        """The JSON file of that name in the same folder; empty without one.

        Raises:
            InputError: If it is damaged or no dict.
        """
        path = self.path.parent / name
        if not path.is_file():
            return {}
        found = read_json(path)
        if not isinstance(found, dict):
            raise InputError(f"{path} must hold a JSON object")
        return found


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file of safetensors or of torch.

    Raises:
        InputError: If it is missing or damaged, or holds objects that reading it would have to run code for.
    """
    if not path.is_file():
        raise InputError(f"path={path} is not a file; give the checkpoint file itself")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
                return Checkpoint(path, tensors, file.metadata() or {})
        with torch.serialization.safe_globals(list(_ALLOWED)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise InputError(_refusal(path, str(error))) from None
    except Exception as error:  # damaged bytes can make a reader of pickles or archives raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} cannot be read ({reason}); get the file again") from None
    if not isinstance(content, Mapping):
        raise InputError(f"{path} must hold a dict, got {type(content).__name__}")
    return Checkpoint(path, content)


def _refusal(path: Path, message: str) -> str:
    """One line that says why a pickled file is not read, from torch's many."""
    named = re.search(r"GLOBAL (\S+)", message)
    if named is None:
        return f"{path} cannot be read (it is no checkpoint of torch, or damaged); get the file again"
    return (
        f"{path} holds {named[1]}, which only code from the file could rebuild; nothing was run or read. If you trust "
        "the file, load it with its own code and save only its tensors"
    )
