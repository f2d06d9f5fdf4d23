"""A text tower that learns (UniTok, arXiv 2502.20321): CLIP's text transformer, from random weights or from a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Int64
from torch import Tensor
from typing_extensions import override

from imtok.conditions.base import Conditioner
from imtok.conditions.clip import open_clip
from imtok.conditions.words import hashed_words
from imtok.errors import InputError
from imtok.nn.clip_text import CLIPTextNet
from imtok.nn.clip_text_files import read_clip_text
from imtok.nn.mlp import MLPKind
from imtok.nn.vit_weights import FILES
from imtok.pretrained import RANDOM, Pretrained
from imtok.types import Condition

Cut = Literal["clip", "words"]


class LearnedText(Conditioner, Pretrained):
    """One feature of each caption: CLIP's text transformer at the end of the text, mapped to the width of the images'.

    The last two ids are the marks of a text's start and end, and 0 fills it up.

    Args:
        cut: How captions become ids: "clip" = by CLIP's byte pairs, of which ``open_clip_torch`` has the table; "words"
            = the hashes of words, which needs no library.
        rows: Number of ids; CLIP has 49408.
        length: The most tokens of a caption, the marks of its start and its end included.
        width: Width of the transformer.
        depth: Number of its blocks.
        heads: Attention heads of each.
        out_dim: Width of the feature.
        mlp: "gelu" (OpenCLIP) or "quick_gelu" (OpenAI).
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.
        weights: What it starts from: a file of OpenAI, OpenCLIP, transformers or UniTok, or a folder that holds one
            under its usual name; "random" = nothing.
        drop: As for :class:`Conditioner`.

    Raises:
        ValueError: If an argument has no such choice or is out of range.

    Example:
        >>> tower = LearnedText("words", rows=64, length=6, width=16, depth=1, heads=2, out_dim=8)
        >>> tower(["A red fox.", ""], torch.tensor([-1, -1])).text.shape
        torch.Size([2, 1, 8])
    """

    reads = ("caption",)
    gives = ("text",)
    text_length = 1
    from_scratch = True

    def __init__(
        self,
        cut: Cut = "clip",
        rows: int = 49408,
        length: int = 77,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        out_dim: int = 768,
        mlp: MLPKind = "gelu",
        checkpoint: bool = False,
        weights: str | None = RANDOM,
        drop: float = 0.0,
    ) -> None:
        super().__init__(drop)
        if cut not in get_args(Cut):
            raise ValueError(f"cut must be clip or words, got {cut!r}")
        if mlp not in ("gelu", "quick_gelu"):
            raise ValueError(f"mlp must be gelu or quick_gelu, got {mlp!r}")
        if min(width, depth, heads, out_dim) < 1:
            raise ValueError(f"width, depth, heads and out_dim must be positive, got {width, depth, heads, out_dim}")
        if length < 3 or rows < 4 or (cut == "clip" and rows != 49408):
            raise ValueError(f"length must be at least 3 and rows at least 4, 49408 for clip, got {length} and {rows}")
        self.cut, self.rows, self.length, self.weights = cut, rows, length, weights
        self.text_dim = out_dim
        self.net = CLIPTextNet(rows, length, width, depth, heads, out_dim, mlp, checkpoint)

    @override
    def forward(self, captions: Sequence[str], labels: Int64[Tensor, " b"]) -> Condition:
        told = torch.tensor([bool(caption.strip()) for caption in captions], dtype=torch.bool, device=labels.device)
        return Condition(text=self.net(self.ids(captions).to(labels.device))[:, None], mask=told[:, None])

    def ids(self, captions: Sequence[str]) -> Int64[Tensor, "b l"]:
        """The ids of captions; what does not fit in ``length`` is not read.

        Raises:
            InputError: If the library that cuts them is missing.
        """
        if not captions:
            return torch.zeros(0, self.length, dtype=torch.int64)
        if self.cut == "clip":
            return open_clip("tokenizer").SimpleTokenizer(context_length=self.length)(list(captions))
        found = torch.zeros(len(captions), self.length, dtype=torch.int64)
        for row, caption in enumerate(captions):
            words = hashed_words(caption, self.length - 2, self.rows - 3)
            whole = [self.rows - 2, *words, self.rows - 1]
            found[row, : len(whole)] = torch.tensor(whole)
        return found

    @override
    def prepare(self) -> None:
        if self.cut == "clip":
            open_clip("tokenizer")

    @override
    def find_weights(self) -> Path | None:
        folder = Path(str(self.weights)).expanduser()
        if folder.is_dir():
            return next((folder / name for name in FILES if (folder / name).is_file()), None)
        return super().find_weights()

    @property
    @override
    def stored(self) -> dict[str, Any]:
        return {"weights": None}  # what it has learnt is stored

    @override
    def read_weights(self, path: Path) -> None:
        if self.cut == "words":
            raise InputError(f"{path} is of a tower that reads CLIP's byte pairs; give cut=clip, or weights=random")
        read_clip_text(self.net, path)
