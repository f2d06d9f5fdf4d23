"""The transformer of a prior."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.nn.attention import Memory, Visible
from imtok.nn.transformer import BlockStyle, Transformer

STYLE = BlockStyle(norm="rms", mlp="swiglu", mlp_ratio=8 / 3, bias=False)  # as LlamaGen's (arXiv 2406.06525)


class Trunk(nn.Module):
    """Blocks in a row, with dropout before and a norm behind.

    Args:
        width: Of the vectors.
        depth: Blocks.
        heads: Attention heads of each.
        dropout: Share of the channels of what goes in that a training step sets to zero.
        drop_path: See :class:`imtok.nn.transformer.Transformer`.

    Raises:
        ValueError: If ``dropout`` is out of range, or ``heads`` does not divide ``width``.

    Example:
        >>> import torch
        >>> Trunk(width=32, depth=2, heads=4)(torch.randn(2, 5, 32)).shape
        torch.Size([2, 5, 32])
    """

    def __init__(self, width: int, depth: int, heads: int, dropout: float = 0.1, drop_path: float = 0.0) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        self.width = width
        self.dropout = nn.Dropout(dropout)
        self.blocks = Transformer(width, depth, heads, STYLE, drop_path=drop_path)
        self.norm = nn.RMSNorm(width)

    def memories(self) -> list[Memory]:
        """What the blocks remember of a sequence that has not begun."""
        return [Memory() for _ in self.blocks.blocks]

    @override
    def forward(
        self,
        vectors: Float[Tensor, "b n d"],
        visible: Visible | None = None,
        memories: Sequence[Memory] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """What the blocks make of vectors; see :meth:`imtok.nn.transformer.Transformer.forward`."""
        return self.norm(self.blocks(self.dropout(vectors), visible, memories=memories))
