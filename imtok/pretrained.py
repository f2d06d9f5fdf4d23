"""Weights that a part starts from: read when a run starts, never when a saved tokenizer is loaded, which holds them."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from imtok.errors import InputError
from imtok.locate import fetch_file, on_hub
from imtok.weights import read_weights

RANDOM = "random"


class Pretrained(ABC):
    """A module whose weights come from a file.

    Attributes:
        weights: Path of the file, ``hf:org/name[@revision]`` for one that is fetched from the Hugging Face Hub, or
            "random": leave them as they were drawn. A recipe must say that in clear. None = they are in the tokenizer's
            own file, as those of a stored one.
        files: What the file is called on the hub, the first that is there.
        from_scratch: Whether it is meant to learn from random weights as well; if not, a run warns of them.
    """

    weights: str | None
    from_scratch: bool = False
    files: tuple[str, ...] = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")

    def find_weights(self) -> Path | None:
        """Where the weights are that ``weights`` names; None if they are nowhere on this machine.

        Raises:
            InputError: If they are to be fetched from the hub, and cannot be.
        """
        if on_hub(self.weights):
            return fetch_file(str(self.weights), self.files)
        path = Path(str(self.weights)).expanduser()
        return path if path.is_file() else None

    @property
    def remedy(self) -> str:
        """What a user may do where they are nowhere."""
        return "give the path of its file"

    @property
    def stored(self) -> dict[str, Any]:
        """Settings as they are stored with the tokenizer, where they are not those that it was built with.

        The tokenizer has the weights itself; where their file lay is no part of it, and stays on this machine.
        """
        return {} if self.weights in (None, RANDOM) else {"weights": None}

    @abstractmethod
    def read_weights(self, path: Path) -> None:
        """Fill the parameters from ``path``.

        Raises:
            InputError: If the file is missing, damaged, or of another model.
        """


def fetch_weights(root: nn.Module, key: str = "") -> None:
    """Read the weights of every pretrained part in ``root``, before a run's first step.

    Args:
        root: A module whose parts are called as their sections of the config.
        key: Of the section that ``root`` is; empty = it is the whole.

    Raises:
        InputError: If a file cannot be used.
    """
    for module, path in find_weights(root, key):
        module.read_weights(path)


def find_weights(root: nn.Module, key: str = "") -> list[tuple[Pretrained, Path]]:
    """The pretrained parts in ``root`` that begin with a file, and their files; arguments as of ``fetch_weights``.

    Raises:
        InputError: If a file is nowhere on this machine, or cannot be fetched.
    """
    found = list[tuple[Pretrained, Path]]()
    for name, module in root.named_modules(prefix=key):
        if isinstance(module, Pretrained) and module.weights != RANDOM:
            own = f"{name or type(module).__name__}.weights"
            if module.weights is None:
                raise InputError(f"{own} must be the path of a file, a name or random where a run starts, got null")
            try:
                path = module.find_weights()
            except InputError as error:
                raise InputError(f"{own}={error}") from None
            if path is None:
                raise InputError(
                    f"{own}={module.weights} does not exist; {module.remedy}, or {own}=random to go without"
                )
            found.append((module, path))
    return found


def as_stored(config: dict[str, Any], **parts: nn.Module) -> dict[str, Any]:
    """A tokenizer's config in which the sections of pretrained parts, however deep, say what is stored of them."""
    for section, part in parts.items():
        for path, module in part.named_modules(prefix=section):
            if isinstance(module, Pretrained) and module.stored:
                config = _changed(config, path.split("."), module.stored)
    return config


def _changed(node: Any, path: list[str], values: dict[str, Any]) -> Any:
    """A copy of plain values with others at a path; as it is where the path leads nowhere."""
    if not path:
        return {**node, **values}
    if not isinstance(node, dict) or not isinstance(node.get(path[0]), dict):
        return node
    return {**node, path[0]: _changed(node[path[0]], path[1:], values)}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file; nothing in it is run.

    Raises:
        InputError: If it is neither, or not a flat dict of tensors.
    """
    return dict(read_weights(path, None).tensors)
