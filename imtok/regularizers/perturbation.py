"""Latent perturbation: codes replaced by near ones, as a generator's mistakes are (RobustTok, arXiv 2503.08354)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import override

from imtok.nn.exact import exactly
from imtok.quantizers.base import Quantizer, straight_through
from imtok.quantizers.segments import Segments
from imtok.regularizers.base import Regularizer
from imtok.schedules import linear_ramp
from imtok.types import Loss, Quantized

SCORES = 2**21  # of latents x codes at a time: 8 MiB in float32
NAME = "perturbed"


class Perturbation(Regularizer):
    """Shows the decoder some images with ids replaced by near ones.

    Each image is perturbed with probability beta, each of its ids then with probability alpha: the new id is one of
    the delta nearest codes, each as likely, itself among them. So a part ``alpha (1 - 1 / delta)`` of a perturbed
    image's ids changes. Images are drawn one by one: the first ``int(beta b)`` of a batch, as in the public code, are
    none at all in batches below ten.

    Each slot of a token is drawn for itself. Ids, losses and statistics stay the quantizer's own: only the latents
    that the decoder sees change, and these keep their gradient, straight through. The changed share of all ids is
    logged as ``perturbed``, a term of weight 0.

    Alpha, beta and delta are numbers, or pairs that go linearly from the first to the last value over ``anneal_steps``
    optimiser steps from ``anneal_start`` on. Delta is rounded down and never below 1.

    Args:
        alpha: Share of a perturbed image's ids that are drawn anew, in [0, 1].
        beta: Share of the images that are perturbed, in [0, 1].
        delta: Number of near codes that the new id is one of, at least 1.
        anneal_start: The last optimiser step that uses the first value of a pair.
        anneal_steps: Steps until the last one is reached.
        center: Near to what: "code", the chosen code (the paper), or "latent", what the encoder gave (the public
            code), by Euclidean distance with the token's other slots as they are. The chosen code comes first in
            both.

    Raises:
        ValueError: If an argument is out of range; in ``forward``, if the quantizer has no ids, delta exceeds the
            codes of a slot, or ``center="latent"`` meets tokens of several scales or segments.

    Example:
        >>> from imtok.quantizers.vq import VQ
        >>> quantizer = VQ(dim=4, codebook_size=64)
        >>> quantized = quantizer(torch.randn(8, 16, 4))
        >>> perturbation = Perturbation(alpha=1.0, beta=0.5, delta=8)
        >>> shown = perturbation(quantized, quantizer, 0, torch.Generator().manual_seed(0))
        >>> torch.equal(shown.ids, quantized.ids), torch.equal(shown.latents, quantized.latents)
        (True, False)
        >>> 0 < shown.losses["perturbed"].value < 1
        tensor(True)
    """

    def __init__(
        self,
        alpha: float | Sequence[float] = 1.0,
        beta: float | Sequence[float] = 0.1,
        delta: int | Sequence[int] = 100,
        anneal_start: int = 0,
        anneal_steps: int = 0,
        center: Literal["code", "latent"] = "code",
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.delta = _pair("alpha", alpha), _pair("beta", beta), _pair("delta", delta)
        if not all(0 <= value <= 1 for value in (*self.alpha, *self.beta)):
            raise ValueError(f"alpha and beta must lie in [0, 1], got {alpha} and {beta}")
        if min(self.delta) < 1:
            raise ValueError(f"delta must be at least 1, got {delta}")
        if min(anneal_start, anneal_steps) < 0:
            raise ValueError(f"anneal_start and anneal_steps must not be negative, got {anneal_start}, {anneal_steps}")
        if center not in ("code", "latent"):
            raise ValueError(f"center must be code or latent, got {center!r}")
        self.anneal_start = anneal_start
        self.anneal_steps = anneal_steps
        self.center = center

    def settings(self, step: int) -> tuple[float, float, int]:
        """Alpha, beta and delta at an optimiser step.

        Example:
            >>> perturbation = Perturbation([1.0, 0.5], 0.1, [100, 50], anneal_start=10, anneal_steps=20)
            >>> [perturbation.settings(step) for step in (10, 20, 30, 40)]
            [(1.0, 0.1, 100), (0.75, 0.1, 75), (0.5, 0.1, 50), (0.5, 0.1, 50)]
        """
        done = linear_ramp(step, self.anneal_start + 1, self.anneal_steps)
        alpha, beta, delta = (
            first if first == last else first + (last - first) * done
            for first, last in (self.alpha, self.beta, self.delta)
        )
        return alpha, beta, max(1, int(delta + 1e-6))

    @override
    def forward(self, quantized: Quantized, quantizer: Quantizer, step: int, generator: torch.Generator) -> Quantized:
        if not quantizer.vocab_sizes:
            what = type(quantizer).__name__
            raise ValueError(f"the quantizer must have ids to perturb, got {what}; give regularizer=none")
        alpha, beta, delta = self.settings(step)
        ids = quantized.ids
        images = (torch.rand(len(ids), generator=generator) < beta).nonzero()[:, 0]  # on the CPU: nothing waits
        latents, changed = quantized.latents, ids.new_zeros((), dtype=torch.float32)
        if len(images) and alpha > 0 and delta > 1:
            rows = images.to(ids.device)
            shape = (len(images), *ids.shape[1:])
            chosen = (torch.rand(shape, generator=generator) < alpha).to(ids.device)
            place = torch.randint(delta, shape, generator=generator).to(ids.device)
            keep = _keep_of_ids(quantized, rows)
            if keep is not None:
                chosen = chosen & keep
            new_ids, new_latents = self._replaced(quantized, quantizer, rows, chosen, place, delta)
            latents = latents.index_copy(0, rows, new_latents)
            changed = (new_ids != ids[rows]).sum().float()
        losses = quantized.losses | {NAME: Loss(changed / _count(quantized), 0.0)}
        return replace(quantized, latents=latents, losses=losses)

    def _replaced(
        self,
        quantized: Quantized,
        quantizer: Quantizer,
        rows: Int64[Tensor, " p"],
        chosen: Bool[Tensor, "p t g"],
        place: Int64[Tensor, "p t g"],
        delta: int,
    ) -> tuple[Int64[Tensor, "p t g"], Float[Tensor, "p n d"]]:
        """Ids and latents of the perturbed images."""
        ids, latents = quantized.ids[rows], quantized.latents[rows]
        with torch.no_grad(), exactly(latents.device):
            if self.center == "code":
                near = quantizer.neighbours(ids, delta)
            elif quantized.encoded is None or not _comparable(quantized, quantizer):
                raise ValueError(f"center must be code for {type(quantizer).__name__}, whose tokens differ, got latent")
            else:
                near = near_latents(ids, latents, quantized.encoded[rows], quantizer.codebook(), delta)
            new_ids = torch.where(chosen, near.gather(-1, place[..., None])[..., 0], ids)
            codes = quantizer.look_up(new_ids).to(latents.dtype)
            if quantized.keep is not None:
                codes = codes.masked_fill(~quantized.keep[rows][..., None], 0)
        return new_ids, straight_through(codes, latents)


def _comparable(quantized: Quantized, quantizer: Quantizer) -> bool:
    """Whether each token stands for one of the encoder's latents, as wide as it, and all tokens share their codes."""
    one_each = quantized.ids.shape[1] == quantized.latents.shape[1]
    return one_each and quantizer.in_dim == quantizer.dim and not isinstance(quantizer, Segments)


def near_latents(
    ids: Int64[Tensor, "b n g"],
    latents: Float[Tensor, "b n d"],
    encoded: Float[Tensor, "b n d"],
    tables: Sequence[Float[Tensor, "v d"]],
    count: int,
) -> Int64[Tensor, "b n g count"]:
    """For each slot the codes that bring the token's latent nearest to ``encoded``, the chosen one first of all.

    Args:
        ids: The chosen codes.
        latents: The latents of ``ids``: the sum of the look-ups.
        encoded: What the encoder gave.
        tables: The quantizer's codebook.
        count: How many; at most the codes of the smallest slot.
    """
    least = min(len(table) for table in tables)
    if not 1 <= count <= least:
        raise ValueError(f"count of neighbours must be between 1 and the vocabulary {least}, got {count}")
    found = []
    for slot, table in enumerate(tables):
        exact = table.to(torch.promote_types(table.dtype, encoded.dtype))
        own = ids[..., slot]
        wanted = (encoded - latents.detach()).to(exact) + exact[own]
        half_norms = exact.square().sum(-1) / 2
        blocks = zip(
            rearrange(wanted, "b n d -> (b n) d").split(max(1, SCORES // len(table))),
            rearrange(own, "b n -> (b n) 1").split(max(1, SCORES // len(table))),
            strict=True,
        )
        near = []
        for block, first in blocks:
            scores = torch.addmm(-half_norms, block, exact.T).scatter_(1, first, torch.inf)
            near.append(scores.topk(count, dim=-1).indices)
        found.append(rearrange(torch.cat(near), "(b n) count -> b n count", b=len(ids)))
    return torch.stack(found, dim=2)


def _pair(name: str, value: float | int | Sequence[float] | Sequence[int]) -> tuple[float, float]:
    if isinstance(value, (int, float)):
        return float(value), float(value)
    if len(value) != 2:
        raise ValueError(f"{name} must be a number or a pair of first and last value, got {list(value)}")
    return float(value[0]), float(value[1])


def _keep_of_ids(quantized: Quantized, rows: Int64[Tensor, " p"]) -> Bool[Tensor, "p t 1"] | None:
    keep = quantized.keep
    return None if keep is None or keep.shape != quantized.ids.shape[:2] else keep[rows][..., None]


def _count(quantized: Quantized) -> Float[Tensor, ""]:
    """Number of ids that are transmitted, at least 1."""
    ids, keep = quantized.ids, quantized.keep
    if keep is None or keep.shape != ids.shape[:2]:
        return quantized.latents.new_tensor(ids.numel(), dtype=torch.float32)
    return (keep.sum() * ids.shape[2]).clamp_min(1).float()
