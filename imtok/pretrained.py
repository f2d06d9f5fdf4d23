"""Weights that a part starts from: read when a run starts, never when a saved tokenizer is loaded, which holds them."""

from abc import ABC, abstractmethod
from pathlib import Path

from torch import Tensor, nn

from imtok.errors import InputError
from imtok.weights import read_weights

RANDOM = "random"


class Pretrained(ABC):
    """A module whose weights come from a file.

    Attributes:
        weights: Path of the file, or "random": leave them as they were drawn. A recipe must say that in clear.
    """

    weights: str

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
    for name, module in root.named_modules(prefix=key):
        if isinstance(module, Pretrained) and module.weights != RANDOM:
            path = Path(module.weights).expanduser()
            if not path.is_file():
                own = f"{name or type(module).__name__}.weights"
                raise InputError(
                    f"{own}={module.weights} does not exist; give the path of its file, or {own}=random to go without"
                )
            module.read_weights(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file; nothing in it is run.

    Raises:
        InputError: If it is neither, or not a flat dict of tensors.
    """
    return dict(read_weights(path, None).tensors)
