"""What encoders and decoders share that begin with a published vision transformer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from torch import nn
from typing_extensions import override

from imtok.locate import on_hub
from imtok.nn.learning import Train, let_learn
from imtok.nn.positions import Grid
from imtok.nn.vit import BlockSettings, ViT, ViTSettings
from imtok.nn.vit_files import read_vit
from imtok.nn.vit_weights import find_vit, repository_of
from imtok.pretrained import Pretrained


class LearningSettings(BlockSettings, total=False):
    """The arguments of :meth:`PretrainedViT.take_net` for parts that say themselves which tokens the net has."""

    train: Train
    last_blocks: int
    lora_rank: int


class PretrainedViTSettings(LearningSettings, ViTSettings, total=False):
    """All arguments of :meth:`PretrainedViT.take_net` that parts take by ``**net``."""


class PretrainedViT(nn.Module, Pretrained):
    """A part with a :class:`imtok.nn.vit.ViT`, which reads its weights and knows what of it learns.

    The net is saved with the tokenizer, and what it began with is not: a stored tokenizer needs no other file.

    Attributes:
        net: The vision transformer.
        layers: Blocks of it that are read; () = the last one, normed.
    """

    net: ViT
    layers: list[int]

    def take_net(
        self,
        weights: str | None,
        grid: Grid,
        patch_size: int,
        width: int,
        depth: int,
        layers: Sequence[int] = (),
        channels: int = 3,
        norm_out: bool = True,
        train: Train = "all",
        last_blocks: int = 4,
        lora_rank: int = 16,
        **net: Unpack[ViTSettings],
    ) -> None:
        """Build the net, of which all or some learns.

        Args:
            weights: Path of a file as timm, transformers or the authors write it, or a name of timm or of the Hugging
                Face hub, whose file is taken from the hub's cache; "random" = as they are drawn; None = those of the
                stored tokenizer.
            grid: As of :class:`imtok.nn.vit.ViT`.
            patch_size: See there.
            width: See there.
            depth: See there.
            layers: Blocks of it that are read, from 0; () = the last one, normed.
            channels: As of the net.
            norm_out: See there.
            train: What of the net learns: "all", "none", the "last" blocks, or adapters beside the maps of attention
                ("lora").
            last_blocks: How many the last blocks are.
            lora_rank: Rank of the adapters.
            **net: As of the net. Weights that no file gives start as ``start`` says.
        """
        self.weights, self.layers = weights, list(layers)
        self.net = ViT(grid, patch_size, width, depth, channels=channels, norm_out=norm_out, **net)
        self._staying = [let_learn(self.net, train, last_blocks, lora_rank)]  # a list in a list is no sub-module

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
