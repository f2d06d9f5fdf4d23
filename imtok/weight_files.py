"""Read weight files by their content, as data without code, and name the kind of files that hold no weights."""

import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from imtok.errors import InputError
from imtok.files import read_json


class Leftover:
    """Replaces an object of a training library that is in a checkpoint beside the weights. It does nothing.

    Attributes:
        values: Its attributes, as far as they are plain values by name: the arguments of a command line.
    """

    def __init__(self, *_: Any) -> None:
        self.values: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        plain = state.items() if isinstance(state, dict) else ()
        self.values = {name: value for name, value in plain if isinstance(value, bool | int | float | str)}


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
    "numpy.dtype",  # the last three are of numbers that a callback has noted
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)
_DICTS = (
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
_PLAIN = (bool, dict, float, int, list, str, tuple)  # configs of omegaconf name them as types


def _empty(*_: Any) -> dict[Any, Any]:
    """Replaces a defaultdict."""
    return {}


_ALLOWED: list[Any] = [(Leftover, name) for name in _LEFTOVERS] + [(OrderedDict, name) for name in _DICTS]
_ALLOWED += [(kind, f"builtins.{kind.__name__}") for kind in _PLAIN] + [(_empty, "collections.defaultdict")]

_ARCHIVE = "is a compressed archive; unpack it and give the weight file in it"
_IMAGE = "is an image and no weight file; give the file with the weights"
# How files begin that are often given in place of weights, what they are, and what to do.
_OTHERS = (
    (b"version https://git-lfs", "is a pointer of Git LFS and not the file itself; fetch it with: git lfs pull"),
    (b"\x1f\x8b", _ARCHIVE),
    (b"BZh", _ARCHIVE),
    (b"\xfd7zXZ", _ARCHIVE),
    (b"7z\xbc\xaf", _ARCHIVE),
    (b"Rar!", _ARCHIVE),
    (b"\x28\xb5\x2f\xfd", _ARCHIVE),
    (b"\x89HDF", "is an HDF5 file, such as Keras writes; give the weights as a file of torch or safetensors"),
    (b"\x93NUMPY", "is a single array of numpy; give the weights as a file of torch or safetensors"),
    (b"GGUF", "is a GGUF file of a language model; give the weights as a file of torch or safetensors"),
    (b"\x89PNG", _IMAGE),
    (b"\xff\xd8\xff", _IMAGE),
)
_PAGES = (b"<!doctype html", b"<html", b"<?xml")
_SHARD = re.compile(r"(?P<stem>.*-)(?P<number>\d{5})(?P<of>-of-)(?P<count>\d{5})(?P<suffix>\.[a-z]+)")
_WITHIN = re.compile(r"(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")  # anywhere in a name
_AROUND = ("module.", "model.")
_SMALLEST = 8  # bytes that say how long the header of a safetensors file is


class Content(NamedTuple):
    """What a weight file holds.

    Attributes:
        held: Tensors by name, or a dict with such dicts and other things.
        metadata: The metadata of a safetensors file.
    """

    held: Any
    metadata: Mapping[str, str]


def read_content(path: Path) -> Content:
    """Read a file of torch or safetensors on the CPU, whatever its name. One shard of a checkpoint reads all shards.

    Raises:
        InputError: If the file is of another kind, damaged or incomplete, or holds objects that need code.
    """
    parts = shards_of(path)
    if parts is None:
        return _read(path)
    tensors = dict[str, Any]()
    for part in parts:
        held = _read(part).held
        if not isinstance(held, Mapping):
            raise InputError(f"{part} must hold tensors by name, as a shard of a checkpoint does")
        tensors |= held
    return Content(tensors, {})


def shards_of(path: Path) -> list[Path] | None:
    """All files of a checkpoint in shards, from its index or one shard; None = it is one file.

    Raises:
        InputError: If one is missing, or the index names none.
    """
    if path.name.endswith(".index.json"):
        index = read_json(path)
        named = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(named, dict) or not named:
            raise InputError(f"{path} must have weight_map: the file of each tensor")
        parts = [path.parent / Path(str(name)).name for name in dict.fromkeys(named.values())]
    elif found := _SHARD.fullmatch(path.name):
        stem, end = found["stem"], f"{found['of']}{found['count']}{found['suffix']}"
        parts = [path.parent / f"{stem}{number:05d}{end}" for number in range(1, int(found["count"]) + 1)]
    else:
        return None
    lost = [part.name for part in parts if not part.is_file()]
    if lost:
        raise InputError(
            f"{path} is of a checkpoint in {len(parts)} files, and {lost[0]} is not beside it; get all of them"
        )
    return parts


def plain_name(name: str) -> str:
    """A name without what compiling and wrapping put into it."""
    return _WITHIN.sub("", name)


def plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose names have no prefixes of compiling (anywhere) and wrapping (before all names)."""
    found = {plain_name(name): tensor for name, tensor in tensors.items()}
    while prefix := next((one for one in _AROUND if found and all(name.startswith(one) for name in found)), None):
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def _read(path: Path) -> Content:
    kind = kind_of(path)
    try:
        if kind == "safetensors":
            with safe_open(path, framework="pt") as file:
                names = file.keys()
                return Content({name: file.get_tensor(name) for name in names}, file.metadata() or {})
        with path.open("rb") as file, torch.serialization.safe_globals(list(_ALLOWED)):  # a path's suffix would count
            return Content(torch.load(file, map_location="cpu", weights_only=True), {})
    except UnpicklingError as error:
        raise InputError(_refusal(path, str(error))) from None
    except Exception as error:  # damaged bytes can make a reader of pickles or archives raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} cannot be read ({reason}); get the file again") from None


def kind_of(path: Path) -> str:
    """The kind of a file by its first bytes, safetensors or torch; InputError that names any other kind."""
    with path.open("rb") as file:
        start = file.read(512)
    size = path.stat().st_size
    if not start:
        raise InputError(f"{path} is empty; get the file again")
    for begins, what in _OTHERS:
        if start.startswith(begins):
            raise InputError(f"{path} {what}")
    if start.lstrip().lower().startswith(_PAGES):
        raise InputError(
            f"{path} is a web page, such as a log-in or an error, and no weights; download the file itself"
        )
    if start[257:262] == b"ustar":
        raise InputError(f"{path} {_ARCHIVE}")
    if start.startswith(b"PK"):
        _check_zip(path)
        return "torch"
    header = int.from_bytes(start[:_SMALLEST], "little")
    if start[_SMALLEST : _SMALLEST + 1] == b"{":
        if _SMALLEST + header > size:
            raise InputError(f"{path} is cut short: its header alone takes more than its {size} bytes; get it again")
        return "safetensors"
    if start.lstrip()[:1] in (b"{", b"["):
        raise InputError(f"{path} is JSON and no weights; give the file with the tensors, or its NAME.index.json")
    return "torch"


def _check_zip(path: Path) -> None:
    """Refuse archives that torch.save has not written."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        raise InputError(f"{path} is cut short or damaged; get the file again") from None
    if any(name.endswith("/constants.pkl") for name in names):
        raise InputError(
            f"{path} is a TorchScript program, which is code; save its state_dict with torch.save and give that"
        )
    if not any(name.endswith("data.pkl") for name in names):
        what = "an npz of numpy" if names and all(name.endswith(".npy") for name in names) else "a zip archive"
        raise InputError(
            f"{path} is {what} and no weight file of torch; give the weights as a file of torch or safetensors"
        )


def _refusal(path: Path, message: str) -> str:
    """One line with the reason why a pickled file is not read, from torch's long message."""
    named = re.search(r"GLOBAL (\S+)", message)
    if named is None:
        return f"{path} cannot be read (it is not a checkpoint of torch, or it is damaged); get the file again"
    return (
        f"{path} holds {named[1]}, which only code from the file could rebuild; nothing was run or read. If you trust "
        "the file, load it with its own code and save only its tensors"
    )
