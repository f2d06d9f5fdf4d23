"""Checkpoint files of other code: tensors and plain values are read, and nothing in them is run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from imtok.errors import InputError
from imtok.files import read_json
from imtok.weight_files import Leftover, plain_name, plain_names, read_content
from imtok.zoo.table import TableError


@dataclass(frozen=True)
class PublicCheckpoint:
    """What a file holds.

    Attributes:
        path: The file.
        content: Tensors by name, or a dict that holds such dicts and other things.
        metadata: What a safetensors file says of itself.
    """

    path: Path
    content: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def entry(self, *entries: str) -> str:
        """The first of ``entries`` that the file has; empty = none of them."""
        return next((entry for entry in entries if isinstance(self.content.get(entry), Mapping)), "")

    def names(self) -> list[str]:
        """The names of all tensors, however deep they lie."""
        return [plain_name(name) for name in _names(self.content)]

    def arguments(self, entry: str) -> dict[str, Any]:
        """The plain values of an object in the file, as the command line of a trainer is; empty without one."""
        found = self.content.get(entry)
        return dict(found.values) if isinstance(found, Leftover) else {}

    def tensors(self, *entries: str) -> dict[str, Tensor]:
        """The tensors of the first of ``entries`` that the file has; of the file itself where it has none of them.

        Raises:
            TableError: If what is there is no dict of tensors.
        """
        name = self.entry(*entries)
        found = self.content[name] if name else self.content
        if not found or not all(isinstance(value, Tensor) for value in found.values()):
            held = ", ".join(map(str, list(found)[:8])) or "nothing"
            wanted = f" or one below {', '.join(entries)}" if entries else ""
            raise TableError(f"it must hold tensors by name{wanted}, got {held}")
        return plain_names(found)

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


def _names(content: Mapping[Any, Any]) -> Iterator[str]:
    for name, value in content.items():
        yield str(name)
        if isinstance(value, Mapping):
            yield from _names(value)


def read_checkpoint(path: Path) -> PublicCheckpoint:
    """Read a file of safetensors or of torch.

    Raises:
        InputError: If it is missing or damaged, or holds objects that reading it would have to run code for.
    """
    if not path.is_file():
        raise InputError(f"path={path} is not a file; give the checkpoint file itself")
    content, metadata = read_content(path)
    if not isinstance(content, Mapping):
        raise InputError(f"{path} must hold a dict, got {type(content).__name__}")
    return PublicCheckpoint(path, content, metadata)
