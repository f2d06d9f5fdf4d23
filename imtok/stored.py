"""A tokenizer in a folder: saved, read, and told from others by its fingerprint."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from imtok.conditions.base import Conditioner
from imtok.construct import Config
from imtok.decoders.base import Decoder
from imtok.encoders.base import Encoder
from imtok.errors import InputError
from imtok.files import canonical_json, new_folder, read_json, sha256, write_json
from imtok.locate import CONFIG, WEIGHTS, find_tokenizer
from imtok.quantizers.base import Quantizer
from imtok.quantizers.ema_vq import EMAVQ

Own = TypeVar("Own", bound="Stored")

SEALED = ("encoder", "quantizer", "decoder", "regularizer", "space", "condition", "image_size")  # what it is built from


class Stored(nn.Module):
    """What :class:`imtok.tokenizer.Tokenizer` does with files.

    Attributes:
        config: The plain values that it is built from.
        metadata: Further keys of ``config.json``, plain values by name, such as ``license`` and ``tags``. ``load`` and
            ``save`` keep them, and the model card shows those that the hub knows. Nothing is built from them.
        source: The folder that it was read from; None for a new one.
    """

    encoder: Encoder
    quantizer: Quantizer
    decoder: Decoder
    condition: Conditioner | None
    config: Config | None
    metadata: dict[str, Any]
    source: Path | None = None

    @classmethod
    @abstractmethod
    def from_config(cls: type[Own], config: Config, packages: Sequence[str] | None = ("imtok",)) -> Own:
        """Build from plain values."""

    @property
    def image_size(self) -> int | None:
        """Side of the images that it was trained on, in pixels, where the config says so."""
        return (self.config or {}).get("image_size")

    def save(self, folder: str | Path) -> None:
        """Write ``config.json``, with the hash of the weights, and ``model.safetensors``, with the config in it.

        Args:
            folder: Appears whole or not at all; an earlier tokenizer in it is replaced.

        Raises:
            ValueError: If the tokenizer was not built from a config, or a weight is not finite, or ``metadata`` holds a
                key of the tokenizer itself or what JSON cannot.
        """
        config, weights = self._checked()
        with new_folder(Path(folder)) as aside:
            # One key: safetensors writes several in random order, and the same tokenizer would have many hashes.
            save_file(weights, aside / WEIGHTS, {"imtok": canonical_json(config)})
            write_json(aside / CONFIG, {**config, **self.metadata, "weights_sha256": sha256(aside / WEIGHTS)})

    @classmethod
    def load(cls: type[Own], source: str | Path, packages: Sequence[str] = ("imtok",)) -> Own:
        """Read a tokenizer that ``save`` wrote, in evaluation mode. Runs no code but that of ``packages``.

        Args:
            source: Its folder, a run folder that holds it as ``tokenizer/``, or ``hf:org/name[@revision]``: a model
                on the Hugging Face Hub.
            packages: Where its classes may come from, beside those that the environment variable ``IMTOK_PACKAGES``
                names; add the package of parts of your own.

        Raises:
            InputError: If a file is missing or was altered, or the weights do not fit the config.
        """
        folder = find_tokenizer(source)
        config = read_json(folder / CONFIG)
        if not isinstance(config, dict) or not {"encoder", "quantizer", "decoder", "weights_sha256"} <= config.keys():
            raise InputError(f"{folder / CONFIG} is not the config of an imtok tokenizer")
        expected = config.pop("weights_sha256")
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
        metadata = {name: value for name, value in config.items() if name not in {*SEALED, *_keys(stored)}}
        config = {name: value for name, value in config.items() if name not in metadata}
        if canonical_json(config) != stored:
            raise InputError(
                f"{folder / CONFIG} was altered after it was saved, in what the tokenizer is built from; copy it again"
            )
        try:
            tokenizer = cls.from_config(config, packages)
            tokenizer.load_state_dict(weights)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{folder} does not fit this version of imtok ({error})") from None
        tokenizer.source, tokenizer.metadata = folder, metadata
        return tokenizer.eval()

    def parameter_count(self) -> int:
        """How many numbers it holds that are learnt, or were before it."""
        return sum(parameter.numel() for parameter in self.parameters())

    def fingerprint(self) -> str:
        """Sha256 of config and weights, the same wherever and however the tokenizer is stored.

        The running shares of an EMA codebook are no part of it: tokenizers of earlier versions have none, and are the
        same.
        """
        digest = hashlib.sha256(canonical_json(self.config).encode())
        shares = {f"{name}.usage" for name, part in self.named_modules() if isinstance(part, EMAVQ)}
        for name, value in sorted(self.state_dict().items()):
            if name in shares:
                continue
            digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _checked(self) -> tuple[Config, dict[str, Tensor]]:
        """Config and weights as they are saved; ValueError if they cannot be."""
        if self.config is None:
            raise ValueError("a tokenizer must be built by Tokenizer.from_config to be saved, got one without a config")
        clash = self.metadata.keys() & {*SEALED, *self.config, "weights_sha256"}
        if clash:
            raise ValueError(f"metadata must have other keys than the tokenizer's own, got {min(clash)}")
        try:
            canonical_json(self.metadata)
        except (TypeError, ValueError) as error:
            raise ValueError(f"metadata must be plain values, as JSON has them ({error})") from None
        weights = {name: value.detach().contiguous().cpu() for name, value in self.state_dict().items()}
        for name, value in weights.items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise ValueError(f"weights must be finite to be saved, got NaN or infinity in {name}")
        return self.config, weights


def _keys(text: str | None) -> list[str]:
    """Keys of a stored config; none if it is no config."""
    try:
        config = json.loads(text or "")
    except ValueError:
        return []
    return list(config) if isinstance(config, dict) else []
