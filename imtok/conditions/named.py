"""A condition made by a published frozen net, which a tokenizer names and does not hold."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import try_to_load_from_cache
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from imtok.conditions.base import Conditioner
from imtok.errors import InputError, MissingWeightsError
from imtok.locate import fetch_file, hub_name, on_hub
from imtok.nn.exact import exactly
from imtok.types import Condition
from imtok.weights import read_weights


class Told(NamedTuple):
    """What a net makes of some captions.

    Attributes:
        text: Its features.
        mask: True where a row says something; None = all rows of a caption do.
    """

    text: Float[Tensor, "b l c"]
    mask: Bool[Tensor, "b l"] | None = None


class _Kept:
    """The net once it has been read. Copies of the condition share it; no module and no file holds its weights."""

    def __init__(self) -> None:
        self.net: nn.Module | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Kept":
        return self


class NamedText(Conditioner):
    """Text features of a frozen net that is known by its name, its revision and the hash of its weights.

    The weights are in no ``model.safetensors``, checkpoint, average, optimiser or exchange between ranks. They are
    read from ``weights`` or from the cache of the Hugging Face hub, and nothing is downloaded. The hash of what a
    tokenizer was trained with is stored; the path of it is not. Weights of another hash are refused.

    Args:
        weights: Path of the weights; None = those in the cache of the hub.
        revision: Commit of the repository; None = any, and the one that was found is stored.
        sha256: Hash of the weights; None = any, and that of the weights that were found is stored.
        drop: As for :class:`Conditioner`.

    Attributes:
        repository: Where the weights are published on the hub.
        file: What their file is called there.
    """

    reads = ("caption",)
    gives = ("text",)
    repository: str
    file: str

    def __init__(
        self,
        weights: str | None = None,
        revision: str | None = None,
        sha256: str | None = None,
        drop: float = 0.0,
    ) -> None:
        super().__init__(drop)
        self.weights, self.revision, self.sha256 = weights, revision, sha256
        self._kept = _Kept()

    @abstractmethod
    def read(self, path: Path) -> nn.Module:
        """The net that lies at a path. It sets ``sha256`` to the hash of what it has read.

        Raises:
            InputError: If a library is missing, the hash is another one, or the net is not the one that is named.
        """

    @abstractmethod
    def features(self, net: Any, captions: Sequence[str], device: torch.device) -> Told:
        """The features of some captions.

        Args:
            net: What ``read`` made, on ``device``.
            captions: The texts.
            device: Where the features are wanted.
        """

    @override
    def forward(self, captions: Sequence[str], labels: Int64[Tensor, " b"]) -> Condition:
        told = self.told(captions, labels.device)
        has_text = torch.tensor([bool(caption.strip()) for caption in captions], dtype=torch.bool, device=labels.device)
        mask = has_text[:, None].expand(-1, told.text.shape[1])
        return Condition(text=told.text, mask=mask if told.mask is None else mask & told.mask)

    def told(self, captions: Sequence[str], device: torch.device) -> Told:
        """What the net makes of some captions."""
        net = self.net.to(device)
        with torch.no_grad(), exactly(device):
            return self.features(net, captions, device)

    @override
    def example(self, images: int, device: torch.device) -> Condition:
        rows = torch.randn(images, self.text_length or 0, self.text_dim or 0, device=device)
        return Condition(text=rows, mask=torch.ones(rows.shape[:2], dtype=torch.bool, device=device))

    @property
    def net(self) -> nn.Module:
        """The net, which is looked for, verified and read when it is first asked for.

        Raises:
            InputError: If it cannot be found, is another one, or cannot be built.
        """
        if self._kept.net is None:
            self._kept.net = self.read(self._find()).requires_grad_(False).eval()
        return self._kept.net

    @override
    def prepare(self) -> None:
        assert self.net is not None

    @property
    @override
    def stored(self) -> dict[str, Any]:
        return {"weights": None, "revision": self.revision, "sha256": self.sha256}

    def _find(self) -> Path:
        if on_hub(self.weights):
            return self._fetched(str(self.weights))
        if self.weights is not None:
            return self.local(Path(self.weights).expanduser())
        found = try_to_load_from_cache(self.repository, self.file, revision=self.revision)
        if not isinstance(found, str):
            raise MissingWeightsError(
                f"condition: {self.file} of {self.repository} is not in the cache of the hub; {self.remedy()}"
            )
        self.revision = self.revision or Path(found).parent.name  # snapshots/COMMIT/FILE
        return Path(found)

    def _fetched(self, name: str) -> Path:
        """What ``condition.weights=hf:org/name[@revision]`` names; InputError if it cannot be had."""
        model = hub_name(name)[0]
        if model != self.repository:
            raise InputError(
                f"condition.weights={name} must be of condition.repository={self.repository}, which is stored; give "
                f"condition.repository={model}"
            )
        try:
            path = self.fetch(name)
        except InputError as error:
            raise InputError(f"condition.weights={error}") from None
        self.revision = self.revision or (path if path.is_dir() else path.parent).name  # snapshots/COMMIT
        return path

    def fetch(self, name: str) -> Path:
        """The file that is read, from the hub; InputError if it cannot be fetched."""
        return fetch_file(name, [self.file])

    def local(self, path: Path) -> Path:
        """The path that ``condition.weights`` names; InputError if nothing that can be read is there."""
        if path.is_file():
            return path
        raise InputError(f"condition.weights={self.weights} is not a file; {self.remedy()}")

    def remedy(self) -> str:
        """What to do where the weights are not found."""
        at = f" --revision {self.revision}" if self.revision else ""
        return f"give its path as condition.weights=PATH, or hf download {self.repository} {self.download}{at}"

    @property
    def download(self) -> str:
        """What of the repository ``hf download`` has to fetch."""
        return self.file


class NamedFile(NamedText):
    """One of which all weights lie in one file."""

    @abstractmethod
    def build(self, tensors: dict[str, Tensor]) -> nn.Module:
        """The net with the weights of its file.

        Raises:
            InputError: If a library is missing, or the file is of another net.
        """

    @override
    def read(self, path: Path) -> nn.Module:
        weights = read_weights(path, self.sha256, "condition.sha256")
        self.sha256 = weights.sha256
        return self.build(dict(weights.tensors))
