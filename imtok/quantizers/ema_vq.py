"""Vector quantization whose codebook is a running average of its tokens (VQ-VAE-2, arXiv 1906.00446)."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import override

from imtok.quantizers.base import token_mean
from imtok.quantizers.kmeans import kmeans
from imtok.quantizers.restart import code_stats, drawn_tokens, restart
from imtok.quantizers.sphere import SHORT_CODE, SHORT_LATENT, unit_length
from imtok.quantizers.table import Given, NearestQuantizer
from imtok.types import Loss, Quantized

EPSILON = 1e-5


class EMAVQ(NearestQuantizer):
    """Replaces each latent by its nearest code; no gradient moves the codes.

    Once per step, over the tokens of all ranks and micro-batches, with counts n_k and sums s_k of a code's latents::

        N_k <- decay N_k + (1 - decay) n_k        m_k <- decay m_k + (1 - decay) s_k
        e_k = m_k / N'_k                          N'_k = (N_k + eps) / (N + K eps) N,    N = sum of N_k

    ``commit = mean |z - sg e|^2`` is the only loss. N_k starts at 1 and m_k at e_k: from zeros, as in much public
    code, the first update would throw codes without tokens far out.

    A code whose share of the tokens falls below ``restart_below`` of an even share is dead: it becomes a random token
    of the global batch (:func:`imtok.quantizers.restart.restart`); N_k becomes the mean, and m_k follows, or the next
    update would undo it. Shares are averaged by themselves: N_k starts at 1 whatever the batch.

    Args:
        dim: Width of latents and codes.
        codebook_size: Number of codes.
        normalize: Scale latents and codes to unit length.
        commit_weight: Weight of the commitment loss.
        decay: Weight of the past at each step, in [0, 1).
        restart_below: Share of the tokens, relative to an even share, below which a code is dead; 0 = never. RQ-VAE
            (arXiv 2203.01941) takes one token per step instead: K / tokens in this measure.
        kmeans_start: Start from the cluster centres of the first latents instead of normal noise.
        estimator: Gradient past the choice of a code (:func:`imtok.quantizers.table.find_estimator`).

    Raises:
        ValueError: For a setting out of range.

    Example:
        >>> quantizer = EMAVQ(dim=4, codebook_size=16)
        >>> before = quantizer.table().clone()
        >>> quantizer.update(quantizer(torch.randn(2, 10, 4)).stats)
        >>> torch.equal(quantizer.table(), before)
        False
    """

    counts: Float[Tensor, " v"]
    sums: Float[Tensor, "v d"]
    usage: Float[Tensor, " v"]
    restarts: Int64[Tensor, ""]

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        normalize: bool = False,
        commit_weight: float = 0.25,
        decay: float = 0.99,
        restart_below: float = 0.0,
        kmeans_start: bool = False,
        estimator: Given = "straight_through",
    ) -> None:
        super().__init__(dim, codebook_size, (commit_weight,), estimator)
        if not 0 <= decay < 1 or not 0 <= restart_below < 1:
            raise ValueError(f"decay and restart_below must be in [0, 1), got {decay} and {restart_below}")
        self.normalize = normalize
        self.commit_weight = commit_weight
        self.decay = decay
        self.restart_below = restart_below
        self.kmeans_start = kmeans_start
        self.register_buffer("counts", torch.ones(codebook_size))
        self.register_buffer("sums", torch.randn(codebook_size, dim))
        self.register_buffer("usage", torch.full((codebook_size,), 1 / codebook_size))
        self.register_load_state_dict_pre_hook(_with_usage)
        self.register_buffer("restarts", torch.zeros((), dtype=torch.long))

    @override
    def quantize(
        self,
        latents: Float[Tensor, "b n d"],
        keep: Bool[Tensor, "b n"] | None,
        ids: Int64[Tensor, "b n"] | None = None,
    ) -> Quantized:
        latents = self._place(latents)
        table = self.table().to(latents.dtype)
        chosen = self.estimate(latents, table, self, ids)
        ids, codes = chosen.ids, chosen.codes
        commit = token_mean((codes - latents).square().mean(-1), keep)
        stats = code_stats(latents, ids, keep, len(table)) if self.training else {}
        if self.training and self.restart_below:
            stats |= drawn_tokens(latents, codes, keep, len(table), self.restarts)
        losses = {"commit": Loss(commit, self.commit_weight)}
        return Quantized(chosen.latents, ids[..., None], losses=losses, stats=stats)

    @override
    def table(self) -> Float[Tensor, "v d"]:
        return self._place(self.sums / self._smoothed_counts(), SHORT_CODE)

    @override
    @torch.no_grad()
    def start(self, latents: Float[Tensor, "m d"]) -> None:
        if self.kmeans_start:
            points = self._place(latents.to(self.sums.dtype))
            generator = torch.Generator().manual_seed(0)
            self.set_table(kmeans(points, len(self.sums), generator, spherical=self.normalize))

    @torch.no_grad()
    def set_table(self, table: Float[Tensor, "v d"]) -> None:
        """Take these codes, with the counts that a new codebook has.

        Args:
            table: The codes: centres of clusters, or the codebook of another tokenizer.

        Raises:
            ValueError: For a table of another shape, or one that is not finite.
        """
        if table.shape != self.sums.shape:
            wanted, got = (" x ".join(map(str, shape)) for shape in (self.sums.shape, table.shape))
            raise ValueError(f"table must be {wanted} (codes x channels), got {got}")
        if not table.isfinite().all():
            raise ValueError("table must be finite")
        self.counts.fill_(1)
        self.usage.fill_(1 / len(self.usage))
        self.sums.copy_(table)

    @override
    @torch.no_grad()
    def update(self, stats: dict[str, Tensor]) -> None:
        if not stats or not stats["counts"].any():
            return
        self.counts.lerp_(stats["counts"].to(self.counts), 1 - self.decay)
        self.sums.lerp_(stats["sums"].to(self.sums), 1 - self.decay)
        if self.restart_below:
            dead, tokens = restart(self.usage, stats, self.restart_below, self.decay, self.restarts)
            self.counts.copy_(torch.where(dead, self.counts.mean(), self.counts))
            fresh = tokens.to(self.sums) * self._smoothed_counts()
            self.sums.copy_(torch.where(dead[:, None], fresh, self.sums))
            self.restarts += 1

    def _smoothed_counts(self) -> Float[Tensor, "v 1"]:
        """N'_k: no count is zero, and their sum is kept."""
        total = self.counts.sum()
        smoothed = (self.counts + EPSILON) * (total / (total + len(self.counts) * EPSILON))
        return smoothed[:, None]

    def _place(self, vectors: Float[Tensor, "*shape d"], short: float = SHORT_LATENT) -> Float[Tensor, "*shape d"]:
        return unit_length(vectors, short) if self.normalize else vectors


def _with_usage(_module: EMAVQ, state: dict[str, Tensor], prefix: str, *_rest: Any) -> None:
    """States from before shares were averaged by themselves: there, they were read off the counts."""
    counts = state.get(f"{prefix}counts")
    if counts is not None:
        state.setdefault(f"{prefix}usage", counts / counts.sum())
