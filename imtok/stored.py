"""A tokenizer in a folder: saved, read, and told from others by its fingerprint."""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from imtok.conditions.base import Conditioner
from imtok.construct import Config
from imtok.decoders.base import Decoder
from imtok.encoders.base import Encoder
from imtok.files import canonical_json
from imtok.locate import find_tokenizer
from imtok.quantizers.base import Quantizer
from imtok.quantizers.ema_vq import EMAVQ
from imtok.sealed import HASH, built, read_sealed, require_finite, write_sealed

Own = TypeVar("Own", bound="Stored")

SEALED = (
    "encoder",
    "quantizer",
    "decoder",
    "regularizer",
    "space",
    "condition",
    "image_size",
    "channels",
    "in_space",
)  # what it is built from


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

    @property
    def channels(self) -> int:
        """Of the images that it reads and makes: 1 (grey), 3 (RGB) or 4 (RGB and alpha)."""
        return (self.config or {}).get("channels", 3)

    def save(self, folder: str | Path) -> None:
        """Write ``config.json``, with the hash of the weights, and ``model.safetensors``, with the config in it.

        Args:
            folder: Appears whole or not at all; an earlier tokenizer in it is replaced.

        Raises:
            ValueError: If the tokenizer was not built from a config, or a weight is not finite, or ``metadata`` holds a
                key of the tokenizer itself or what JSON cannot.
        """
        write_sealed(Path(folder), *self._checked())

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
        config, metadata, weights = read_sealed(folder, ("encoder", "quantizer", "decoder"), SEALED, "tokenizer")
        tokenizer = built(lambda: cls.from_config(config, packages), weights, folder)
        tokenizer.source, tokenizer.metadata = folder, metadata
        return tokenizer

    def parameter_count(self) -> int:
        """How many numbers it holds that are learnt, or were before it."""
        return sum(parameter.numel() for parameter in self.parameters())

    def fingerprint(self) -> str:
        """Sha256 of config and weights, the same wherever and however the tokenizer is stored.

        The running shares of an EMA codebook are no part of it: tokenizers of earlier versions have none, and are the
        same.
        """
        return self._digest(())

    def codes_fingerprint(self) -> str:
        """Sha256 of all that makes tokens of an image: the same for tokenizers of which the decoder alone differs."""
        return self._digest(("decoder", "regularizer"))

    def _digest(self, without: Sequence[str]) -> str:
        config = self.config and {name: value for name, value in self.config.items() if name not in without}
        digest = hashlib.sha256(canonical_json(config).encode())
        shares = {f"{name}.usage" for name, part in self.named_modules() if isinstance(part, EMAVQ)}
        for name, value in sorted(self.state_dict().items()):
            if name in shares or name.split(".")[0] in without:
                continue
            digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _checked(self) -> tuple[Config, dict[str, Any], dict[str, Tensor]]:
        """Config, metadata and weights as they are saved; ValueError if they cannot be."""
        if self.config is None:
            raise ValueError("a tokenizer must be built by Tokenizer.from_config to be saved, got one without a config")
        clash = self.metadata.keys() & {*SEALED, *self.config, HASH}
        if clash:
            raise ValueError(f"metadata must have other keys than the tokenizer's own, got {min(clash)}")
        try:
            canonical_json(self.metadata)
        except (TypeError, ValueError) as error:
            raise ValueError(f"metadata must be plain values, as JSON has them ({error})") from None
        weights = self.state_dict()
        require_finite(weights)
        return self.config, self.metadata, weights
