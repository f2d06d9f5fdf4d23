"""The shortest vectors of the Leech lattice, and the one that is nearest to a latent by the lattice's structure."""

from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

DIM = 24
PAIRS, OCTADS, WORDS = 276, 759, 4096
CODES = 4 * PAIRS + 128 * OCTADS + DIM * WORDS  # 196,560
TOKENS = 256  # a block of scores is 4096 x 256 floats, 4 MiB in float32
DEVICE_TOKENS = 4096
_GENERATOR = 0b110001110101  # x^11 + x^10 + x^6 + x^5 + x^4 + x^2 + 1 makes the Golay code of length 23
_BITS = np.arange(DIM - 1, -1, -1)  # coordinate 0 is the most significant digit


@cache
def golay_code() -> NDArray[np.int64]:
    """The 4096 words of the extended Golay code as digits 0 and 1, ``word coordinate``, in lexicographic order.

    The first 12 digits of a word are its number in this order.
    """
    factors = np.arange(12)
    chosen = np.arange(WORDS)[:, None] >> factors & 1
    cyclic = np.bitwise_xor.reduce(chosen * (_GENERATOR << factors), axis=1)
    even = cyclic << 1 | np.bitwise_count(cyclic) & 1
    return np.sort(even)[:, None] >> _BITS & 1


@cache
def octads() -> NDArray[np.int64]:
    """The coordinates of the 759 words of weight 8, ``octad 8``, in the order of :func:`golay_code`."""
    words = golay_code()
    return np.nonzero(words[words.sum(1) == 8])[1].reshape(OCTADS, 8)


@cache
def minimal_vectors() -> NDArray[np.int8]:
    """The 196,560 shortest vectors, ``vector coordinate``, as whole numbers of squared length 32.

    In a row: ``(+-4, +-4, 0^22)`` by its pair of coordinates; ``(+-2^8, 0^16)`` with an even number of minus signs by
    its octad; both then by their signs, read as a binary number whose first digit is the first coordinate that is not
    0 and where 1 is a minus. The eighth sign of an octad follows from the others. Then ``(-3, 1^23)``, with the signs
    turned at the ones of a word of the Golay code, by that word and then by the place of the 3.
    """
    first, second = np.triu_indices(DIM, 1)
    pairs = np.zeros((PAIRS, 4, DIM), np.int8)
    signs = 4 - 8 * (np.arange(4)[:, None] >> np.array([1, 0]) & 1)
    rows = np.arange(PAIRS)
    for signed in range(4):
        pairs[rows, signed, first], pairs[rows, signed, second] = signs[signed]
    minus = np.arange(128)[:, None] >> np.arange(6, -1, -1) & 1
    minus = np.concatenate([minus, minus.sum(1, keepdims=True) & 1], 1)
    eights = np.zeros((OCTADS, 128, DIM), np.int8)
    np.put_along_axis(eights, np.repeat(octads()[:, None], 128, 1), (2 - 4 * minus)[None].astype(np.int8), 2)
    odd = (1 - 2 * golay_code())[:, None] * (1 - 4 * np.eye(DIM, dtype=np.int64))
    return np.concatenate([part.reshape(-1, DIM).astype(np.int8) for part in (pairs, eights, odd)])


class LeechSearch(nn.Module):
    """Finds the row of :func:`minimal_vectors` with the greatest dot product: of equal ones the first.

    Each of the three shapes has its own way, and none of them looks at single vectors. A pair takes the two greatest
    magnitudes. An octad takes its eight magnitudes, and where they need an odd number of minus signs it loses the
    least of them twice. A word of the Golay code takes the dot product with its signs; its 3 stands where the latent
    goes farthest against the sign, and adds four times that. Memory is some 32 KiB per token of one block of
    ``TOKENS``. No shape depends on values, so that it compiles to one graph.
    """

    signs: Float[Tensor, "words coordinates"]
    members: Float[Tensor, "octads coordinates"]
    octads: Int64[Tensor, "octads 8"]
    tails: Int64[Tensor, " words"]

    def __init__(self) -> None:
        super().__init__()
        words, eights = torch.tensor(golay_code()), torch.tensor(octads())
        self.register_buffer("signs", 1.0 - 2 * words.float(), persistent=False)
        self.register_buffer("members", torch.zeros(OCTADS, DIM).scatter(1, eights, 1.0), persistent=False)
        self.register_buffer("octads", eights, persistent=False)
        self.register_buffer("tails", (words[:, 12:] << torch.arange(11, -1, -1)).sum(1), persistent=False)

    @override
    @torch.no_grad()
    def forward(self, latents: Float[Tensor, "m 24"]) -> Int64[Tensor, " m"]:
        rows = TOKENS if latents.device.type == "cpu" else DEVICE_TOKENS
        found = [self._nearest(block.T.contiguous()) for block in latents.split(rows)]
        return torch.cat(found) if found else latents.new_zeros(0, dtype=torch.long)

    def _nearest(self, latents: Float[Tensor, "24 m"]) -> Int64[Tensor, " m"]:
        """Tokens come last, so that each step runs over whole rows of them."""
        size, minus = latents.abs(), latents < 0
        best, ids = _pair(size, minus)
        for score, candidate in (self._octad(size, minus), self._word(latents)):
            better = score > best  # strictly: an earlier shape keeps a tie
            best, ids = torch.where(better, score, best), torch.where(better, candidate, ids)
        return ids

    def _octad(
        self, size: Float[Tensor, "24 m"], minus: Bool[Tensor, "24 m"]
    ) -> tuple[Float[Tensor, " m"], Int64[Tensor, " m"]]:
        members = self.members.to(size.dtype)
        least = size.index_select(0, self.octads.flatten()).view(OCTADS, 8, -1).amin(1)
        odd = (members @ minus.to(size.dtype)).remainder(2)
        score, octad = _first_greatest(torch.addcmul(members @ size, odd, least, value=-2), 33)
        chosen = self.octads[octad].T
        size, minus = size.gather(0, chosen), minus.gather(0, chosen).long()
        places = (64 >> torch.arange(8, device=size.device))[:, None]  # the eighth sign is no digit
        number = (minus * places).sum(0)
        turned = torch.where(size == size.amin(0), number ^ places, 128).amin(0)
        number = torch.where(minus.sum(0) % 2 > 0, turned, number)
        return 2 * score, 4 * PAIRS + 128 * octad + number.clamp_max(127)  # NaN equals nothing

    def _word(self, latents: Float[Tensor, "24 m"]) -> tuple[Float[Tensor, " m"], Int64[Tensor, " m"]]:
        signs = self.signs.to(latents.dtype)
        # Four times, and a product on top, all in place: torch.compile forgets the alpha of a sum with a product.
        first, second, rest = (4 * _farthest_against(part) for part in latents.split([6, 6, 12]))
        scores = rest.index_select(0, self.tails)
        for part in (first[:, None], second[None]):
            scores.view(64, 64, -1).clamp_(min=part)
        score, word = _first_greatest(scores.addmm_(signs, latents), 64)
        place = (-signs[word].T * latents).argmax(0)
        return score, 4 * PAIRS + 128 * OCTADS + DIM * word + place


def _pair(size: Float[Tensor, "24 m"], minus: Bool[Tensor, "24 m"]) -> tuple[Float[Tensor, " m"], Int64[Tensor, " m"]]:
    one = size.argmax(0, keepdim=True)
    two = size.scatter(0, one, -1.0).argmax(0, keepdim=True)
    places = torch.cat([one, two]).sort(0).values
    signs, (first, second) = minus.gather(0, places).long(), places
    pair = first * (2 * DIM - 1 - first) // 2 + second - first - 1
    return 4 * size.gather(0, places).sum(0), 4 * pair + 2 * signs[0] + signs[1]


def _farthest_against(latents: Float[Tensor, "k m"]) -> Float[Tensor, "v m"]:
    """For each of the ``2^k`` patterns of signs, the first sign as the first digit, the greatest ``-sign * latent``."""
    first, *others = torch.stack([-latents, latents], 1)
    for other in others:
        first = torch.maximum(first[:, None], other[None]).flatten(0, 1)
    return first


def _first_greatest(scores: Float[Tensor, "v m"], group: int) -> tuple[Float[Tensor, " m"], Int64[Tensor, " m"]]:
    """The greatest of each column and its first row; found among groups of rows, since places cost more than values."""
    groups = scores.unflatten(0, (-1, group))
    most = groups.amax(1)
    at = most.argmax(0)
    within = groups[at, :, torch.arange(scores.shape[1], device=scores.device)].argmax(1)
    row = at * group + within
    return most.gather(0, at[None])[0], row
