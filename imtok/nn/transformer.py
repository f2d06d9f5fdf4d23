"""The one transformer trunk of all tokenizers: pre-norm blocks (arXiv 2010.11929), in the published styles."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth
from typing_extensions import override

from imtok.nn.attention import Memory, Scale, Visible
from imtok.nn.layer_scale import LayerScale
from imtok.nn.mlp import MLPKind, mlp
from imtok.nn.modulation import Modulation, modulate
from imtok.nn.norms import TokenNorm, token_norm
from imtok.nn.positions import Rotation
from imtok.nn.weighted_attention import WeightedSelfAttention


@dataclass(frozen=True)
class BlockStyle:
    """What blocks of published transformers differ in; the default is that of ViT.

    Attributes:
        norm: Of the tokens before attention and MLP.
        eps: Added to the variance in all norms.
        mlp: Kind of the token-wise network (:func:`imtok.nn.mlp.mlp`).
        mlp_ratio: Its hidden width over the width of the tokens, rounded down to whole channels.
        bias: Whether attention and MLP have biases.
        query_key_norm: Norm of queries and keys in each head.
        scale: Of the attention scores.
        key_bias: Whether keys have a bias where ``bias`` gives attention one.
        layer_scale: What the learned scales of both halves of a block start at; 0 = there are none (DINOv2: 1e-5).
    """

    norm: TokenNorm = "layer"
    eps: float = 1e-5
    mlp: MLPKind = "gelu"
    mlp_ratio: float = 4.0
    bias: bool = True
    query_key_norm: TokenNorm = "none"
    scale: Scale = "sqrt"
    key_bias: bool = True
    layer_scale: float = 0.0


class Block(nn.Module):
    """Attention and MLP, each on normed tokens and added to them.

    Args:
        width: Width of the tokens.
        heads: Attention heads.
        style: See there.
        modulated_segments: Segments that a condition modulates, each in its own way; 0 = there is no condition.
        drop_path: Probability that a sample passes a half of the block by, in training (arXiv 1603.09382).
    """

    def __init__(
        self, width: int, heads: int, style: BlockStyle, modulated_segments: int = 0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = token_norm(style.norm, width, style.eps)
        self.attention = WeightedSelfAttention(
            width, heads, style.bias, style.query_key_norm, style.scale, style.key_bias
        )
        self.scale1 = LayerScale(width, style.layer_scale) if style.layer_scale else nn.Identity()
        self.norm2 = token_norm(style.norm, width, style.eps)
        self.mlp = mlp(style.mlp, width, int(width * style.mlp_ratio + 1e-6), style.bias, style.eps)
        self.scale2 = LayerScale(width, style.layer_scale) if style.layer_scale else nn.Identity()
        self.modulation = Modulation(width, 6, modulated_segments) if modulated_segments else None
        self.drop_path = StochasticDepth(drop_path, "row") if drop_path else nn.Identity()

    @override
    def forward(
        self,
        tokens: Float[Tensor, "b n d"],
        visible: Visible | None = None,
        rotation: Rotation | None = None,
        condition: Float[Tensor, "b d"] | None = None,
        lengths: Sequence[int] = (),
        weights: Float[Tensor, " n"] | None = None,
        memory: Memory | None = None,
    ) -> Float[Tensor, "b n d"]:
        if self.modulation is None or condition is None:
            attended = self.scale1(self.attention(self.norm1(tokens), visible, rotation, weights, memory=memory))
            tokens = tokens + self.drop_path(attended)
            return tokens + self.drop_path(self.scale2(self.mlp(self.norm2(tokens))))
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition, lengths)
        normed = modulate(self.norm1(tokens), shift1, scale1)
        attended = self.scale1(self.attention(normed, visible, rotation, weights, memory=memory))
        tokens = tokens + self.drop_path(gate1 * attended)
        return tokens + self.drop_path(gate2 * self.scale2(self.mlp(modulate(self.norm2(tokens), shift2, scale2))))


class Transformer(nn.Module):
    """Blocks in a row. What its tokens are is the caller's business, and so is a norm at the end.

    Args:
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Attention heads of each.
        style: See there.
        modulated_segments: Segments that a condition modulates, each in its own way; 0 = there is no condition.
        drop_path: Probability that a sample passes a half of the last block by, in training; it grows linearly from 0
            at the first block.
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.

    Example:
        >>> import torch
        >>> Transformer(width=32, depth=2, heads=4)(torch.randn(2, 5, 32)).shape
        torch.Size([2, 5, 32])
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        style: BlockStyle | None = None,
        modulated_segments: int = 0,
        drop_path: float = 0.0,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        rates = [drop_path * index / max(depth - 1, 1) for index in range(depth)]
        style = style or BlockStyle()
        self.blocks = nn.ModuleList(Block(width, heads, style, modulated_segments, rate) for rate in rates)
        self.checkpoint = checkpoint

    @override
    def forward(
        self,
        tokens: Float[Tensor, "b n d"],
        visible: Visible | None = None,
        rotation: Rotation | None = None,
        condition: Float[Tensor, "b d"] | None = None,
        lengths: Sequence[int] = (),
        weights: Float[Tensor, " n"] | None = None,
        seen: list[Tensor] | None = None,
        memories: Sequence[Memory] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Let the tokens talk.

        Args:
            tokens: The sequence.
            visible: True where a row (query) may see a column (key); None = everywhere.
            rotation: Angles of rotary positions, half as wide as a head.
            condition: What modulates the blocks, where they are built for it.
            lengths: Tokens in each modulated segment.
            weights: How many tokens of the same kind each stands for; None = one. Excludes ``visible``.
            seen: Gets the tokens behind each block, where somebody wants them.
            memories: One per block, of the tokens that came before these; ``visible`` then has columns for all.
        """
        for index, block in enumerate(self.blocks):
            if memories is not None:
                tokens = block(tokens, visible, rotation, condition, lengths, weights, memories[index])
            elif self.checkpoint and self.training:
                tokens = checkpoint(block, tokens, visible, rotation, condition, lengths, weights, use_reentrant=False)
            else:
                tokens = block(tokens, visible, rotation, condition, lengths, weights)
            if seen is not None:
                seen.append(tokens)
        return tokens
