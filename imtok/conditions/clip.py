"""CLIP's text encoder (arXiv 2103.00020), as TA-TiTok reads it: a feature for each token of the caption."""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from imtok.conditions.named import NamedFile, Told
from imtok.errors import InputError


class CLIPText(NamedFile):
    """The text tower of a CLIP model of OpenAI: all tokens after the last norm, without pooling or projection.

    TA-TiTok (arXiv 2501.07730) reads those of ViT-L/14 at 336 pixels, 77 of width 768. ``open_clip_torch`` has the
    net and cuts captions into tokens; what is beyond 77 of them is not read.

    Args:
        dim: Width of the features.
        length: The most tokens of a caption, the marks of its start and its end included.
        depth: Number of blocks.
        heads: Attention heads of each.
        repository: Where the weights are published on the hub.
        file: What their file is called there.
        weights: As for :class:`NamedText`, as are all that follow.
        revision: See there.
        sha256: See there.
        drop: See there.
    """

    def __init__(
        self,
        dim: int = 768,
        length: int = 77,
        depth: int = 12,
        heads: int = 12,
        repository: str = "timm/vit_large_patch14_clip_336.openai",
        file: str = "open_clip_model.safetensors",
        weights: str | None = None,
        revision: str | None = None,
        sha256: str | None = None,
        drop: float = 0.0,
    ) -> None:
        super().__init__(weights, revision, sha256, drop)
        self.text_dim = dim
        self.length = self.text_length = length
        self.depth, self.heads = depth, heads
        self.repository, self.file = repository, file

    @override
    def build(self, tensors: dict[str, Tensor]) -> nn.Module:
        library = open_clip("transformer")
        table = tensors.get("token_embedding.weight")
        with torch.device("meta"):  # its weights take the place of random ones
            net = library.TextTransformer(
                context_length=self.length,
                vocab_size=0 if table is None else len(table),
                width=self.text_dim,
                heads=self.heads,
                layers=self.depth,
                output_dim=None,
                act_layer=library.QuickGELU,
            )
        own = {name: tensors[name].float() for name in net.state_dict() if name in tensors}
        try:
            net.load_state_dict(own, assign=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"condition.weights is of another net than the condition says ({reason})") from None
        net.attn_mask = torch.full((self.length, self.length), float("-inf")).triu(1)  # a token sees no later one
        return net

    @override
    def features(self, net: Any, captions: Sequence[str], device: torch.device) -> Told:
        cut = open_clip("tokenizer").SimpleTokenizer(context_length=self.length)
        tokens = cut(list(captions)).to(device) if captions else torch.zeros(0, self.length, dtype=torch.int64)
        embedded = net.token_embedding(tokens) + net.positional_embedding
        return Told(net.ln_final(net.transformer(embedded, attn_mask=net.attn_mask)))


def open_clip(module: str) -> Any:
    """A module of ``open_clip_torch``; InputError if it is missing."""
    if find_spec("open_clip") is None:
        raise InputError(
            "condition: open_clip is missing, which cuts captions into CLIP's tokens; pip install open_clip_torch "
            "(imtok's extra `clip`), or give condition=words"
        )
    return import_module(f"open_clip.{module}")
