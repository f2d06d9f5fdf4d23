"""CLIP's text transformer (arXiv 2103.00020), as a net that learns: from token ids to a feature of the whole text."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from imtok.nn.mlp import MLPKind
from imtok.nn.transformer import Block, BlockStyle, Transformer


class CLIPTextNet(nn.Module):
    """A causal transformer, which is read where a text ends: at its highest id, as CLIP's mark of the end is.

    Args:
        rows: Number of ids.
        length: The most tokens of a text, each of which has a learned position.
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Attention heads of each.
        out_dim: Width of the feature.
        mlp: Kind of the blocks' token-wise net: "gelu" (OpenCLIP) or "quick_gelu" (OpenAI).
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.

    Example:
        >>> net = CLIPTextNet(rows=10, length=4, width=16, depth=1, heads=2, out_dim=8)
        >>> net(torch.tensor([[8, 3, 9, 0]])).shape
        torch.Size([1, 8])
    """

    def __init__(
        self,
        rows: int,
        length: int,
        width: int,
        depth: int,
        heads: int,
        out_dim: int,
        mlp: MLPKind = "gelu",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(rows, width)
        self.positions = nn.Parameter(torch.empty(length, width))
        self.trunk = Transformer(width, depth, heads, BlockStyle(mlp=mlp), checkpoint=checkpoint)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, out_dim, bias=False)
        self._start(width, depth)

    @override
    def forward(self, ids: Int64[Tensor, "b l"]) -> Float[Tensor, "b k"]:
        """The feature of each text; ids behind its end are not seen."""
        length = ids.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        tokens = self.norm(self.trunk(self.tokens(ids) + self.positions[:length], earlier))
        return self.project(tokens[torch.arange(len(ids), device=ids.device), ids.argmax(1)])

    @torch.no_grad()
    def _start(self, width: int, depth: int) -> None:
        """Draw weights as CLIP does: those that write into the tokens are smaller, the more blocks there are."""
        narrow = width**-0.5
        written = narrow * (2 * depth) ** -0.5
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        nn.init.normal_(self.project.weight, std=narrow)
        for block in self.trunk.modules():
            if isinstance(block, Block):
                attention, first, last = block.attention, block.mlp[0], block.mlp[2]  # type: ignore[index]
                for linear, deviation in (
                    (attention.query_key_value, narrow),
                    (attention.project, written),
                    (first, (2 * width) ** -0.5),
                    (last, written),
                ):
                    nn.init.normal_(linear.weight, std=deviation)
                    nn.init.zeros_(linear.bias)
