"""Vector quantization with a gradient-trained codebook (VQ-VAE, arXiv 1711.00937; VQGAN, arXiv 2012.09841)."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from imtok.quantizers.attended import distance_entropies
from imtok.quantizers.base import token_mean
from imtok.quantizers.entropy import EntropyWeights
from imtok.quantizers.kmeans import kmeans
from imtok.quantizers.restart import code_stats, drawn_tokens, restart
from imtok.quantizers.sphere import SHORT_CODE, SHORT_LATENT, unit_length
from imtok.quantizers.table import Given, NearestQuantizer
from imtok.types import Loss, Quantized


class VQ(NearestQuantizer):
    """Replaces each latent ``z`` by its nearest code ``e``.

    ``codebook = mean |e - sg z|^2`` moves the codes, ``commit = mean |z - sg e|^2`` the encoder, both means over
    tokens and channels. Unit-length codes of few channels (ViT-VQGAN, arXiv 2110.04627) keep large codebooks in use.

    A code whose share of the tokens falls below ``restart_below`` of an even share is dead: it becomes a random token
    of the global batch (:func:`imtok.quantizers.restart.restart`).

    Args:
        dim: Width of latents and codes.
        codebook_size: Number of codes.
        normalize: Scale latents and codes to unit length.
        search: ``distance``: the nearest code. ``cosine``: the code with the smallest angle to the latent, which keeps
            its own length, as MAGVIT (arXiv 2212.05199) and the scales of XQ-GAN (arXiv 2412.01762) find theirs.
        codebook_weight: Weight of the codebook loss.
        commit_weight: Weight of the commitment loss. 0.25 here and 1 above as in the paper's formula; taming's
            ``legacy`` has them exchanged.
        entropy_weight: Weight of the mean entropy of assignments minus the entropy of the mean assignment, in
            training only; 0 = off. Two weigh the first and the second.
        temperature: Softmax temperature of those assignments, whose logits are negative squared distances.
        restart_below: Share of the tokens, relative to an even share, below which a code is dead; 0 = never.
        usage_decay: Decay per step of the running share.
        kmeans_start: Start from the cluster centres of the first latents instead of uniform noise.
        estimator: Gradient past the choice of a code (:func:`imtok.quantizers.table.find_estimator`).

    Raises:
        ValueError: For a setting out of range, or an unknown estimator.

    Example:
        >>> quantizer = VQ(dim=8, codebook_size=64)
        >>> quantized = quantizer(torch.randn(2, 16, 8))
        >>> quantized.ids.shape, torch.equal(quantizer.decode(quantized.ids), quantized.latents)
        (torch.Size([2, 16, 1]), True)
    """

    usage: Float[Tensor, " v"]
    restarts: Int64[Tensor, ""]

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        normalize: bool = True,
        search: str = "distance",
        codebook_weight: float = 1.0,
        commit_weight: float = 0.25,
        entropy_weight: float | Sequence[float] = 0.0,
        temperature: float = 0.01,
        restart_below: float = 0.0,
        usage_decay: float = 0.99,
        kmeans_start: bool = False,
        estimator: Given = "straight_through",
    ) -> None:
        super().__init__(dim, codebook_size, (codebook_weight, commit_weight), estimator)
        if search not in ("distance", "cosine"):
            raise ValueError(f"search must be distance or cosine, got {search!r}")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if not 0 <= usage_decay < 1 or not 0 <= restart_below < 1:
            raise ValueError(f"usage_decay and restart_below must be in [0, 1), got {usage_decay} and {restart_below}")
        self.normalize = normalize
        self.search = search
        self.codebook_weight = codebook_weight
        self.commit_weight = commit_weight
        self.entropy_weight = EntropyWeights.of(entropy_weight)
        self.temperature = temperature
        self.restart_below = restart_below
        self.usage_decay = usage_decay
        self.kmeans_start = kmeans_start
        self.weight = nn.Parameter(torch.empty(codebook_size, dim).uniform_(-1 / codebook_size, 1 / codebook_size))
        self.register_buffer("usage", torch.full((codebook_size,), 1 / codebook_size))
        self.register_buffer("restarts", torch.zeros((), dtype=torch.long))

    @override
    def quantize(
        self,
        latents: Float[Tensor, "b n d"],
        keep: Bool[Tensor, "b n"] | None,
        ids: Int64[Tensor, "b n"] | None = None,
    ) -> Quantized:
        latents = self.place(latents)
        table = self.table().to(latents.dtype)
        chosen = self.estimate(latents, table, self, ids)
        ids, codes = chosen.ids, chosen.codes
        losses = {
            "codebook": Loss(token_mean((codes - latents.detach()).square().mean(-1), keep), self.codebook_weight),
            "commit": Loss(token_mean((codes.detach() - latents).square().mean(-1), keep), self.commit_weight),
        }
        if self.training and self.entropy_weight:
            tokens, compared = self.compared(latents.flatten(0, 1), table)
            entropies = distance_entropies(tokens.view_as(latents), compared, keep, self.temperature)
            losses |= self.entropy_weight.losses(*entropies)
        counting = self.training and self.restart_below > 0
        stats = {}
        if counting:
            stats = {"counts": code_stats(latents, ids, keep, len(table))["counts"]}
            stats |= drawn_tokens(latents, codes, keep, len(table), self.restarts)
        return Quantized(chosen.latents, ids[..., None], losses=losses, stats=stats)

    def place(self, vectors: Float[Tensor, "*shape d"], short: float = SHORT_LATENT) -> Float[Tensor, "*shape d"]:
        """Where latents and codes are compared: on the unit sphere, or where they are.

        Args:
            vectors: Latents or codes.
            short: The least length that gradients follow.
        """
        return unit_length(vectors, short) if self.normalize else vectors

    @override
    def compared(
        self, latents: Float[Tensor, "m d"], table: Float[Tensor, "v d"]
    ) -> tuple[Float[Tensor, "m d"], Float[Tensor, "v d"]]:
        if self.search == "distance":
            return latents, table
        return unit_length(latents, SHORT_LATENT), unit_length(table, SHORT_CODE)

    @override
    def table(self) -> Float[Tensor, "v d"]:
        return self.place(self.weight, SHORT_CODE)

    @override
    @torch.no_grad()
    def start(self, latents: Float[Tensor, "m d"]) -> None:
        if self.kmeans_start:
            points = self.place(latents.to(self.weight.dtype))
            generator = torch.Generator().manual_seed(0)
            self.weight.copy_(kmeans(points, len(self.weight), generator, spherical=self.normalize))

    @override
    @torch.no_grad()
    def update(self, stats: dict[str, Tensor]) -> None:
        if not stats or not stats["counts"].any():
            return
        dead, tokens = restart(self.usage, stats, self.restart_below, self.usage_decay, self.restarts)
        self.weight.copy_(torch.where(dead[:, None], tokens.to(self.weight), self.weight))
        self.restarts += 1
