"""Multi-scale residual quantization of a square map, coarse to fine (VAR, arXiv 2404.02905)."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from imtok.nn.exact import exactly
from imtok.quantizers.base import Quantizer, straight_through
from imtok.quantizers.composition import add_stats, as_images, merge_losses, require_own_width, stats_of
from imtok.quantizers.entropy import EntropyWeights, bit_entropies
from imtok.quantizers.lfq import LFQ
from imtok.quantizers.sphere import unit_length
from imtok.types import Loss, Quantized

Gradients = Literal["straight_through", "scales", "codes"]


class MultiScale(Quantizer):
    """Quantizes what is left over at growing resolutions, with one quantizer that all scales share.

    ``r_0 = z``; at scale ``s``: ids of the area-averaged ``r_{s-1}``, their codes enlarged by bicubic interpolation
    and passed through ``phi_s`` are ``c_s``, and ``r_s = r_{s-1} - sg c_s``. The result ``q = c_1 + ... + c_S`` has a
    single straight-through estimator. ``phi_s(x) = (1 - mix) x + mix conv3x3(x)``, with a few convolutions that
    neighbouring scales share. With ``q_s = c_1 + ... + c_s``, ``codebook = mean |q_s - sg z|^2`` and
    ``commit = mean |z - sg q_s|^2``, both means over scales too. Terms of the inner quantizer (entropies, say) are
    averaged over scales and added; those that have a namesake here begin with ``inner_``.

    With ``entropy_weight`` sign codes also have the entropies of XQ-GAN's binary codes (arXiv 2412.01762), which are
    not those of the tokens: at each scale the bits of all positions of ``r_{s-1}`` at full size, as long as it is.

    The ids of all scales stand one after the other, coarsest first and row by row, so there are more tokens than
    latents. ``decode`` also takes the ids of the first few scales alone. The tables of ``codebook`` are those of the
    inner quantizer: latents are sums of look-ups only before they are enlarged.

    With ``gradients="scales"`` there is no estimator around the sum. Each scale passes its gradient to the latents
    through the inner quantizer, so that what several scales see counts several times (TokenFlow, arXiv 2412.03069).
    With ``gradients="codes"`` nothing is detached in between either: gradients reach each scale's codes, and what the
    inner quantizer makes them of (CODA, arXiv 2503.17760).

    Args:
        quantizer: Quantizes each position of each scale.
        sizes: Side of the map at each scale, not decreasing; the last is the side of the latents' map.
        convolutions: Number of convolutions that the scales share; 0 = none, codes are only enlarged.
        mix: Share of the convolution in ``phi``, in (0, 1].
        codebook_weight: Weight of the codebook loss; it trains the convolutions too.
        commit_weight: Weight of the commitment loss.
        normalize: Scale latents to unit length first.
        entropy_weight: Weight of the mean entropy of the bits of what is left over, minus the entropies of each bit's
            mean, in training only; 0 = off. Two weigh the first and the second.
        gradients: Where those of the result go: "straight_through" = to the latents; "scales" = through the codes of
            each scale to the latents; "codes" = through them to earlier scales, too. The last two need an inner
            quantizer with an estimator of its own.

    Raises:
        ValueError: For sizes that decrease or are below 1, a share or weight out of range, more convolutions than the
            scales use, an inner quantizer that takes more than its codes' width, or entropies of one without bits; in
            ``forward``, if latents do not fill the map or some are not kept.

    Example:
        >>> from imtok.quantizers.vq import VQ
        >>> quantizer = MultiScale(VQ(dim=4, codebook_size=64, normalize=False), sizes=[1, 2, 3, 4])
        >>> quantizer.num_tokens(16), quantizer(torch.randn(2, 16, 4)).ids.shape
        (30, torch.Size([2, 30, 1]))
    """

    def __init__(
        self,
        quantizer: Quantizer,
        sizes: Sequence[int],
        convolutions: int = 4,
        mix: float = 0.5,
        codebook_weight: float = 1.0,
        commit_weight: float = 0.25,
        normalize: bool = False,
        entropy_weight: float | Sequence[float] = 0.0,
        gradients: Gradients = "straight_through",
    ) -> None:
        super().__init__()
        if gradients not in get_args(Gradients):
            raise ValueError(f"gradients must be one of {', '.join(get_args(Gradients))}, got {gradients!r}")
        # What cannot be is refused.
        if not sizes or min(sizes) < 1 or list(sizes) != sorted(sizes):
            raise ValueError(f"sizes must be a list of sides >= 1 that does not decrease, got {list(sizes)}")
        require_own_width([quantizer], "the quantizer of a scale")
        if quantizer.num_latents is not None:
            raise ValueError("the quantizer of a scale must take any number of latents, got one that does not")
        if convolutions < 0 or not 0 < mix <= 1:
            raise ValueError(f"convolutions must not be negative and mix be in (0, 1], got {convolutions} and {mix}")
        used = len({convolution_of(scale, len(sizes), convolutions) for scale in range(len(sizes))})
        if convolutions > used:
            raise ValueError(
                f"convolutions must be at most {used}, so that {len(sizes)} scales use all, got {convolutions}"
            )
        if min(codebook_weight, commit_weight) < 0:
            raise ValueError(f"loss weights must not be negative, got {codebook_weight} and {commit_weight}")
        if gradients == "scales" and (codebook_weight or commit_weight):
            raise ValueError(
                "codebook_weight and commit_weight must be 0 where each scale has gradients of its own, since the "
                f"quantizer of a scale has these losses, got {codebook_weight} and {commit_weight}"
            )
        if EntropyWeights.of(entropy_weight) and not isinstance(quantizer, LFQ):
            raise ValueError(
                f"entropy_weight must be 0 for a quantizer of scales without bits, got {type(quantizer).__name__}"
            )
        # One quantizer for all scales, and the convolutions that they share.
        self.quantizer = quantizer
        self.sizes, self.side = tuple(sizes), sizes[-1]
        self.mix = mix
        self.codebook_weight = codebook_weight
        self.commit_weight = commit_weight
        self.normalize = normalize
        self.entropy_weight = EntropyWeights.of(entropy_weight)
        self.gradients = gradients
        self.dim = quantizer.dim
        self.vocab_sizes = quantizer.vocab_sizes
        self.num_latents = self.side**2
        self.convolutions = nn.ModuleList(nn.Conv2d(self.dim, self.dim, 3, padding=1) for _ in range(convolutions))

    @override
    def quantize(self, latents: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None) -> Quantized:
        self.num_tokens(latents.shape[1])
        if keep is not None:
            raise ValueError("every latent is needed for scales, which mix them, and the encoder leaves some out")
        target = self._map(unit_length(latents) if self.normalize else latents)
        total, through = torch.zeros_like(target), self.gradients != "straight_through"
        ids: list[Tensor] = []
        losses: list[dict[str, Loss]] = []
        stats: dict[str, Tensor] = {}
        for scale, size in enumerate(self.sizes):
            left = target - (total if self.gradients == "codes" else total.detach())
            rest = F.interpolate(left, (size, size), mode="area")
            result = self.quantizer.quantize(rearrange(rest, "b d h w -> b (h w) d"), None)
            codes = self.quantizer.look_up(result.ids)
            codes = result.latents.to(codes.dtype) if through else codes  # as precise as decode has them
            total = total + self.enlarged(codes, scale).to(target.dtype)
            codebook = Loss((total - target.detach()).square().mean(), self.codebook_weight)
            commit = Loss((total.detach() - target).square().mean(), self.commit_weight)
            own = {"codebook": codebook, "commit": commit}
            losses += [own, {f"inner_{name}" if name in own else name: term for name, term in result.losses.items()}]
            if self.training and self.entropy_weight:
                losses.append(self._entropies(left))
            ids.append(result.ids)
            add_stats(stats, 0, result.stats)
        given = rearrange(total if through else straight_through(total, target), "b d h w -> b (h w) d")
        merged = merge_losses(losses, 1 / len(self.sizes))
        return Quantized(given, torch.cat(ids, dim=1), losses=merged, stats=stats)

    @override
    def decode(self, ids: Int64[Tensor, "b t g"], slots: int | None = None) -> Float[Tensor, "b n d"]:
        scales = ids.split(self._scales(ids.shape[1]), dim=1)
        return self._sum([self.quantizer.look_up(own, slots) for own in scales])

    @override
    def check_ids(self, ids: Tensor, slots: int | None = None) -> None:
        self.quantizer.check_ids(ids, slots)

    @override
    def soft_decode(self, probabilities: Sequence[Float[Tensor, "b t _"]]) -> Float[Tensor, "b n d"]:
        slots = [slot.split(self._scales(slot.shape[1]), dim=1) for slot in probabilities]
        return self._sum([self.quantizer.soft_decode(scale) for scale in zip(*slots, strict=True)])

    @override
    def codebook(self) -> list[Float[Tensor, "v d"]]:
        return self.quantizer.codebook()

    @override
    def neighbours(self, ids: Int64[Tensor, "b t g"], count: int) -> Int64[Tensor, "b t g count"]:
        return self.quantizer.neighbours(ids, count)

    @override
    @torch.no_grad()
    def start(self, latents: Float[Tensor, "m d"]) -> None:
        target = self._map(as_images(unit_length(latents) if self.normalize else latents, self.num_latents))
        self.quantizer.start(rearrange(target, "b d h w -> (b h w) d"))
        rest, inputs = target, []
        for scale, size in enumerate(self.sizes):
            small = rearrange(F.interpolate(rest, (size, size), mode="area"), "b d h w -> b (h w) d")
            inputs.append(small.flatten(0, 1))
            rest = rest - self.enlarged(self.quantizer.look_up(self.quantizer(small).ids), scale)
        self.quantizer.start(torch.cat(inputs))

    @override
    def update(self, stats: dict[str, Tensor]) -> None:
        self.quantizer.update(stats_of(0, stats))

    @override
    def num_tokens(self, num_latents: int) -> int:
        if num_latents != self.num_latents:
            raise ValueError(
                f"latents must be {self.num_latents} ({self.side} x {self.side}) to fill the last of sizes, got "
                f"{num_latents}"
            )
        return sum(self.scale_tokens)

    @property
    def scale_tokens(self) -> tuple[int, ...]:
        """Number of tokens of each scale."""
        return tuple(size**2 for size in self.sizes)

    @property
    @override
    def part_dims(self) -> tuple[int, ...]:
        return self.quantizer.part_dims

    def enlarged(self, codes: Float[Tensor, "b m d"], scale: int) -> Float[Tensor, "b d h w"]:
        """The codes of one scale as a map of full size, with gradients to table and convolutions."""
        size, side = self.sizes[scale], self.side
        codes = rearrange(codes, "b (h w) d -> b d h w", h=size)
        if size < side:
            codes = F.interpolate(codes, (side, side), mode="bicubic")
        if not self.convolutions:
            return codes
        convolution = self.convolutions[convolution_of(scale, len(self.sizes), len(self.convolutions))]
        with exactly(codes.device):
            return codes.lerp(convolution(codes), self.mix)

    def _sum(self, scales: Sequence[Float[Tensor, "b _ d"]]) -> Float[Tensor, "b n d"]:
        total = scales[0].new_zeros(())
        for scale, codes in enumerate(scales):  # in the order of quantize, so that not even the last bit differs
            total = total + self.enlarged(codes, scale)
        return rearrange(total, "b d h w -> b (h w) d")

    def _scales(self, tokens: int) -> tuple[int, ...]:
        """How the tokens of the first scales divide into scales."""
        ends = list(accumulate(self.scale_tokens))
        if tokens not in ends:
            raise ValueError(f"ids must be those of whole scales, {self.scale_tokens} tokens, got {tokens} tokens")
        return self.scale_tokens[: ends.index(tokens) + 1]

    def _entropies(self, left: Float[Tensor, "b d h w"]) -> dict[str, Loss]:
        """The entropies of the bits of the residual, each bit for itself."""
        assert isinstance(self.quantizer, LFQ)
        odds = self.quantizer.log_odds(rearrange(left, "b d h w -> b (h w) d"))
        per_token, of_mean = bit_entropies(odds, None, [1] * self.dim)
        return self.entropy_weight.losses(per_token, of_mean)

    def _map(self, latents: Float[Tensor, "b n d"]) -> Float[Tensor, "b d h w"]:
        return rearrange(latents, "b (h w) d -> b d h w", h=self.side)


def convolution_of(scale: int, scales: int, count: int) -> int:
    """Which of ``count`` convolutions VAR's code gives to a scale: ticks spread over the scales, the nearest one.

    The ticks of four stand a third of a step from the ends, those of another number half a step. In between the
    later one is taken: VAR's rounding does so with its four, and either with other numbers.
    """
    if not count:
        return 0
    edge = Fraction(1, (3 if count == 4 else 2) * count)
    step = (1 - 2 * edge) / max(count - 1, 1)
    place = Fraction(scale, max(scales - 1, 1))
    return sum(place >= edge + step * (tick + Fraction(1, 2)) for tick in range(count - 1))
