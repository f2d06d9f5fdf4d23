"""What encoders and decoders share that begin with a published vision transformer."""

from pathlib import Path
from typing import Any

from torch import nn
from typing_extensions import override

from imtok.locate import on_hub
from imtok.nn.learning import Train, let_learn
from imtok.nn.vit import ViT
from imtok.nn.vit_files import read_vit
from imtok.nn.vit_weights import find_vit, repository_of
from imtok.pretrained import Pretrained


class PretrainedViT(nn.Module, Pretrained):
    """A part with a :class:`imtok.nn.vit.ViT`, which reads its weights and knows what of it learns.

    The net is saved with the tokenizer, and what it began with is not: a stored tokenizer needs no other file.

    Attributes:
        net: The vision transformer.
        layers: Blocks of it that are read; () = the last one, normed.
    """

    net: ViT
    layers: list[int]

    def let_learn(self, train: Train, blocks: int, rank: int) -> None:
        """Set what of the net learns; see :func:`imtok.nn.learning.let_learn`."""
        self._staying = [let_learn(self.net, train, blocks, rank)]  # a list in a list is no sub-module

    @override
    def train(self, mode: bool = True) -> "PretrainedViT":
        super().train(mode)
        for part in self._staying[0]:
            part.eval()
        return self

    @override
    def find_weights(self) -> Path | None:
        return super().find_weights() if on_hub(self.weights) else find_vit(str(self.weights))

    @property
    @override
    def remedy(self) -> str:
        repository = repository_of(str(self.weights))
        at = f"download it (hf download {repository} model.safetensors), or " if repository else ""
        return f"{at}give the path of its file"

    @property
    @override
    def stored(self) -> dict[str, Any]:
        return {"weights": None}

    @override
    def read_weights(self, path: Path) -> None:
        read_vit(self.net, path, beyond=bool(self.layers))
