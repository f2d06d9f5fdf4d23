"""Plain values and weights in a folder, whose files know each other's content."""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from imtok.construct import Config
from imtok.errors import InputError
from imtok.files import canonical_json, new_folder, read_json, sha256, write_json
from imtok.locate import CONFIG, WEIGHTS

HASH = "weights_sha256"
Net = TypeVar("Net", bound=nn.Module)


class Sealed(NamedTuple):
    """What a folder holds.

    Attributes:
        config: What a net is built from, which the weights' file seals.
        metadata: Other keys of ``config.json``; nothing is built from them.
        weights: Tensors by name.
    """

    config: Config
    metadata: dict[str, Any]
    weights: dict[str, Tensor]


def write_sealed(folder: Path, config: Config, metadata: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write ``config.json``, with the hash of the weights, and ``model.safetensors``, with the config in it.

    Args:
        folder: Appears whole or not at all; what was in it before is replaced.
        config: What the net is built from.
        metadata: Further keys of ``config.json``.
        weights: Tensors by name.

    Raises:
        ValueError: If a weight is not finite.
    """
    require_finite(weights)
    plain = {name: value.detach().contiguous().cpu() for name, value in weights.items()}
    with new_folder(folder) as aside:
        # One key: safetensors writes several in random order, and the same net would have many hashes.
        save_file(plain, aside / WEIGHTS, {"imtok": canonical_json(config)})
        write_json(aside / CONFIG, {**config, **metadata, HASH: sha256(aside / WEIGHTS)})


def require_finite(weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError that names a weight that is not finite."""
    for name, value in weights.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"weights must be finite to be saved, got NaN or infinity in {name}")


def read_sealed(folder: Path, needed: Collection[str], known: Collection[str], what: str) -> Sealed:
    """Read what :func:`write_sealed` wrote. No code of it runs.

    Args:
        folder: It holds both files.
        needed: Keys that its config has.
        known: Keys that a net may be built from, beside those that the weights' file names.
        what: It is, for messages: "tokenizer".

    Raises:
        InputError: If a file is missing or was altered.
    """
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or not {*needed, HASH} <= config.keys():
        raise InputError(f"{folder / CONFIG} is not the config of an imtok {what}")
    expected = config.pop(HASH)
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder / WEIGHTS} does not exist; copy the folder again")
    if sha256(folder / WEIGHTS) != expected:
        raise InputError(f"{folder / WEIGHTS} was altered (its sha256 is not the one in {CONFIG}); copy it again")
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            stored = (file.metadata() or {}).get("imtok")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except SafetensorError as error:
        raise InputError(f"{folder / WEIGHTS} is not a safetensors file ({error})") from None
    # The weights' file seals what it is built from. Other keys are anybody's, and nothing is built from them.
    metadata = {name: value for name, value in config.items() if name not in {*known, *_keys(stored)}}
    config = {name: value for name, value in config.items() if name not in metadata}
    if canonical_json(config) != stored:
        raise InputError(
            f"{folder / CONFIG} was altered after it was saved, in what the {what} is built from; copy it again"
        )
    return Sealed(config, metadata, weights)


def built(make: Callable[[], Net], weights: Mapping[str, Tensor], folder: Path) -> Net:
    """Build a net with the weights of a folder, in evaluation mode.

    Args:
        make: Builds the net from the folder's config.
        weights: All weights of the net.
        folder: The folder, for error messages.

    Raises:
        InputError: If a part refuses the config, or the weights do not fit it.
    """
    try:
        net = make()
        net.load_state_dict(weights)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{folder} does not fit this version of imtok ({error})") from None
    return net.eval()


def _keys(text: str | None) -> list[str]:
    """Keys of a stored config; none if it is no config."""
    try:
        config = json.loads(text or "")
    except ValueError:
        return []
    return list(config) if isinstance(config, dict) else []
