"""One id for several features of a token, each with codes of its own (shared mapping, TokenFlow, arXiv 2412.03069)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.quantizers.sphere import SHORT_LATENT, unit_length
from imtok.quantizers.table import Given
from imtok.quantizers.vq import VQ


class SharedVQ(VQ):
    """A VQ whose channels fall into parts that are scaled to unit length one by one.

    The id is ``argmin_k sum_p w_p |z_p - e_p,k|^2`` over parts p: the code that suits all parts together, so that
    ids that a semantic part brings together stay alike in appearance. Losses are means over all channels, so that a
    part counts by its width; entropies take the weighted distance.

    Args:
        part_dims: Widths of the parts, first the semantic, then the pixels.
        codebook_size: Number of codes.
        part_weights: Weight of each part's distance; None = 1 each.
        codebook_weight: As for VQ; so are those that follow.
        commit_weight: Weight of the commitment loss.
        entropy_weight: Weight of the entropy terms, or two.
        temperature: Softmax temperature of their assignments.
        restart_below: Share of an even share of tokens below which a code is drawn anew.
        usage_decay: Decay per step of the running share.
        kmeans_start: Start from the cluster centres of the first latents.
        estimator: Gradient past the choice of a code (:func:`imtok.quantizers.table.find_estimator`).

    Raises:
        ValueError: For a setting out of range.

    Example:
        >>> quantizer = SharedVQ(part_dims=[32, 8], codebook_size=64)
        >>> semantic, pixels = quantizer(torch.randn(1, 4, 40)).latents.split([32, 8], dim=-1)
        >>> pixels.norm(dim=-1).allclose(torch.ones(1, 4))
        True
    """

    def __init__(
        self,
        part_dims: Sequence[int],
        codebook_size: int,
        part_weights: Sequence[float] | None = None,
        codebook_weight: float = 1.0,
        commit_weight: float = 0.25,
        entropy_weight: float | Sequence[float] = 0.0,
        temperature: float = 0.01,
        restart_below: float = 0.0,
        usage_decay: float = 0.99,
        kmeans_start: bool = False,
        estimator: Given = "straight_through",
    ) -> None:
        weights = [1.0] * len(part_dims) if part_weights is None else list(part_weights)
        if not part_dims or min(part_dims) < 1:
            raise ValueError(f"part_dims must be a list of widths of at least 1, got {list(part_dims)}")
        if len(weights) != len(part_dims) or min(weights) <= 0:
            raise ValueError(
                f"part_weights must be a positive number for each of {len(part_dims)} parts, got {weights}"
            )
        super().__init__(
            dim=sum(part_dims),
            codebook_size=codebook_size,
            codebook_weight=codebook_weight,
            commit_weight=commit_weight,
            entropy_weight=entropy_weight,
            temperature=temperature,
            restart_below=restart_below,
            usage_decay=usage_decay,
            kmeans_start=kmeans_start,
            estimator=estimator,
        )
        self._part_dims = tuple(part_dims)
        self.part_weights = tuple(weights)

    @property
    @override
    def part_dims(self) -> tuple[int, ...]:
        return self._part_dims

    @override
    def place(self, vectors: Float[Tensor, "*shape d"], short: float = SHORT_LATENT) -> Float[Tensor, "*shape d"]:
        parts = vectors.split(self._part_dims, dim=-1)
        return torch.cat([unit_length(part, short) for part in parts], dim=-1)

    @override
    def compared(
        self, latents: Float[Tensor, "m d"], table: Float[Tensor, "v d"]
    ) -> tuple[Float[Tensor, "m d"], Float[Tensor, "v d"]]:
        return self._weighted(latents), self._weighted(table)

    def _weighted(self, vectors: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape d"]:
        """Vectors whose squared distance is the weighted sum over parts."""
        parts = vectors.split(self._part_dims, dim=-1)
        return torch.cat([part * weight**0.5 for part, weight in zip(parts, self.part_weights, strict=True)], dim=-1)
