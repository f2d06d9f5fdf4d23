"""Entropies of soft code assignments (MAGVIT-v2, arXiv 2310.05737), exact and without a tokens x codes matrix."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from imtok.quantizers.ranks import kept_per_rank, mean_over_ranks
from imtok.types import Loss

BLOCK = 1 << 22  # logits held at a time: 16 MiB in float32, which stay in a processor's cache
DEVICE_BLOCK = 1 << 26  # an accelerator wants few large blocks: 256 MiB
JOINT_BITS = 20  # the joint distribution of so many bits is computed exactly: 4 MiB in float32
GROUP_BITS = 12  # more bits than that go in groups of at most so many


class EntropyWeights(NamedTuple):
    """Weights of both entropies; false if both are zero.

    Attributes:
        token: Weight of the mean entropy of each token's assignment.
        codebook: Weight of the entropy of the mean assignment, which the total subtracts.
    """

    token: float
    codebook: float

    def __bool__(self) -> bool:
        return self.token > 0 or self.codebook > 0

    @classmethod
    def of(cls, given: float | Sequence[float]) -> "EntropyWeights":
        """Read one weight for both, or one for each; ValueError for anything else or a negative weight."""
        both = (given, given) if isinstance(given, (int, float)) else tuple(given)
        if len(both) != 2 or not min(both) >= 0:
            raise ValueError(
                f"entropy_weight must not be negative, one number or two (of tokens, of the codebook), got {given}"
            )
        return cls(*both)

    def losses(self, per_token: Float[Tensor, ""], of_mean: Float[Tensor, ""]) -> dict[str, Loss]:
        """Both entropies as losses."""
        return {"entropy_token": Loss(per_token, self.token), "entropy_codebook": Loss(of_mean, -self.codebook)}


def block_rows(codes: int, device: torch.device) -> int:
    """How many tokens are compared with so many codes at a time."""
    return max(1, (BLOCK if device.type == "cpu" else DEVICE_BLOCK) // codes)


def entropy(probabilities: Float[Tensor, "*shape v"]) -> Float[Tensor, "*shape"]:
    """Entropy in nats along the last axis: unbiased for large vocabularies, finite gradient where a cell is 0."""
    return -(probabilities * probabilities.clamp_min(1e-30).log()).sum(-1)


def bit_assignments(
    logits: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None, groups: Sequence[int]
) -> tuple[Float[Tensor, ""], list[Float[Tensor, " v"]]]:
    """Mean entropy of each token's independent bits in nats, and the mean assignment of each group of bits.

    The softmax over all sign codes is a product over bits, so a token's entropy is the sum of those of its bits, and
    the mean assignment of ``2^k`` codes is one product of matrices, tokens x ``2^(k/2)`` each: the joint
    probabilities of both halves of the bits. Exact, and no tokens x codes matrix.

    Args:
        logits: Log-odds of each bit being 1; gradients flow to them.
        keep: True = counted.
        groups: Number of bits in each group, first channels first; in a group's assignment the first channel is the
            least significant digit.
    """
    halves = [(size // 2, size - size // 2) for size in groups]

    def block_sums(block: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        zero, one = F.logsigmoid(-block), F.logsigmoid(block)
        per_token = -(zero.exp() * zero + one.exp() * one).sum(-1) @ weight
        sums, first = [], 0
        for low, high in halves:
            joints = [
                _joint(zero[:, start : start + size], one[:, start : start + size])
                for start, size in ((first, low), (first + low, high))
            ]
            sums.append(((joints[1] * weight[:, None]).T @ joints[0]).flatten())
            first += low + high
        return per_token, torch.cat(sums)

    per_token, means = _means(block_sums, logits, keep, sum(2**low + 2**high for low, high in halves))
    return per_token, list(means.split([2**size for size in groups]))


def bit_entropies(
    logits: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None, groups: Sequence[int]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean entropy of each token's independent bits, and entropy of the mean assignment over tokens and ranks, in nats.

    The second is exact for one group. For several it is the sum over groups, which bounds that of all bits from
    above: ``joint <= sum over groups <= sum over bits <= d ln 2``.
    """
    per_token, means = bit_assignments(logits, keep, groups)
    return per_token, torch.stack([entropy(mean) for mean in means]).sum()


def entropy_groups(bits: int, largest: int | None = None) -> tuple[int, ...]:
    """Numbers of bits, as equal as can be, of groups whose joint distribution is affordable.

    Args:
        bits: All bits of a token.
        largest: Most bits in a group; None = one exact group up to 20 bits, groups of at most 12 above.

    Raises:
        ValueError: If ``largest`` is not between 1 and 20.
    """
    if largest is not None and not 1 <= largest <= JOINT_BITS:
        raise ValueError(f"entropy_bits must be between 1 and {JOINT_BITS}, got {largest}")
    count = -(-bits // (largest or (JOINT_BITS if bits <= JOINT_BITS else GROUP_BITS)))
    return tuple(bits // count + (group < bits % count) for group in range(count))


def _joint(zero: Float[Tensor, "m k"], one: Float[Tensor, "m k"]) -> Float[Tensor, "m v"]:
    """Probability of each of the ``2^k`` patterns, given the log-probabilities of each bit being 0 and 1.

    A sum of terms that are never positive loses nothing, however large the log-odds. It is a power of two, as
    processors take far longer for ``exp`` where its result is too small for a normal number.
    """
    size = zero.shape[-1]
    patterns = torch.arange(2**size, device=zero.device) >> torch.arange(size, device=zero.device)[:, None] & 1
    bits = math.log2(math.e) * torch.cat([1 - patterns, patterns]).to(zero.dtype)
    return (torch.cat([zero, one], dim=-1) @ bits).exp2()


def _means(
    block_sums: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    latents: Float[Tensor, "b n d"],
    keep: Bool[Tensor, "b n"] | None,
    width: int,
) -> tuple[Tensor, Tensor]:
    """Weighted sums over blocks of tokens over the number of kept tokens; several blocks are recomputed for gradients.

    Args:
        block_sums: From a block and its weights to the sum of entropies and the sum of assignments.
        latents: The tokens.
        keep: True = counted.
        width: Values held per token.
    """
    tokens = latents.flatten(0, 1)
    weights = tokens.new_ones(tokens.shape[0]) if keep is None else keep.flatten().to(tokens.dtype)
    size = block_rows(width, latents.device)
    run = block_sums if len(tokens) <= size else partial(checkpoint, block_sums, use_reentrant=False)
    blocks = zip(tokens.split(size), weights.split(size), strict=True)
    sums = [run(block, weight) for block, weight in blocks]
    count = len(tokens) if keep is None else kept_per_rank(keep, tokens.dtype)
    per_token = torch.stack([part[0] for part in sums]).sum() / count
    return per_token, mean_over_ranks(torch.stack([part[1] for part in sums]).sum(0) / count)
