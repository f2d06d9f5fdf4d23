"""pFID: the Fréchet distance of images decoded from perturbed tokens, over a grid (RobustTok, arXiv 2503.08354).

The authors released no code for it. Their training code perturbs by neighbours of the latent, their text by neighbours
of the chosen code; here it is the text. The grid of the paper could not be verified.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xxhash
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import override

from imtok.distributed import gather_values
from imtok.errors import InputError
from imtok.extractors.base import Extractor
from imtok.measures.base import Bench, EvaluationBatch, MeasureResult, Number, Quantity
from imtok.measures.features import NetMeasure
from imtok.measures.frechet import FrechetDistance
from imtok.measures.inference import Size, require_finite
from imtok.tokenizer import Tokenizer
from imtok.types import Tokens

_CONVENTION = "mean over a grid of (alpha, delta) of the Fréchet distance to the originals; every image perturbed"


class Draws:
    """Random numbers for each id of each image, from its name alone: neither batch, workers nor ranks matter.

    One set serves every (alpha, delta), so that points of a grid differ by these two only.

    Args:
        keys: Names of the images.
        shape: Tokens and slots of an image.
        seed: Of all numbers.

    Example:
        >>> first, second = Draws(["a", "b"], (4, 1), 0), Draws(["b"], (4, 1), 0)
        >>> torch.equal(first.chosen[1], second.chosen[0])
        True
    """

    def __init__(self, keys: Sequence[str], shape: tuple[int, int], seed: int) -> None:
        drawn = np.empty((len(keys), 2, *shape))
        for row, key in enumerate(keys):
            digest = xxhash.xxh3_128_digest(key.encode())
            words = np.frombuffer(digest, dtype="<u8").astype(np.uint64)
            generator = np.random.Generator(np.random.Philox(counter=[0, words[0], words[1], 0], key=[seed, 0x9F1D]))
            drawn[row] = generator.random((2, *shape))
        self.chosen: Float[Tensor, "b t g"] = torch.from_numpy(drawn[:, 0].copy())
        self.which: Float[Tensor, "b t g"] = torch.from_numpy(drawn[:, 1].copy())


def perturb(
    ids: Int64[Tensor, "b t g"],
    neighbours: Int64[Tensor, "b t g most"],
    draws: Draws,
    alpha: float,
    delta: int,
    keep: Bool[Tensor, "b t"] | None = None,
) -> Int64[Tensor, "b t g"]:
    """Replace a part ``alpha`` of the ids by one of its ``delta`` nearest codes, itself among them.

    So a part ``alpha (1 - 1 / delta)`` changes. Each slot of a token is drawn for itself.

    Args:
        ids: Token ids.
        neighbours: At least ``delta`` nearest codes of each, nearest first, the id itself first of all.
        draws: The random numbers of these images.
        alpha: In [0, 1].
        delta: At least 1.
        keep: True = transmitted; others stay. None = all are.
    """
    if not 0 <= alpha <= 1 or not 1 <= delta <= neighbours.shape[-1]:
        raise ValueError(f"alpha must lie in [0, 1] and delta in [1, {neighbours.shape[-1]}], got {alpha} and {delta}")
    chosen = (draws.chosen < alpha).to(ids.device)
    if keep is not None:
        chosen = chosen & keep[..., None]
    place = (draws.which * delta).long().clamp(max=delta - 1).to(ids.device)
    return torch.where(chosen, neighbours.gather(-1, place[..., None])[..., 0], ids)


class PerturbedMeasure(NetMeasure):
    """Decodes each image once per point of the grid. Images are encoded once.

    Args:
        alphas: Parts of the ids that are drawn anew, each in [0, 1].
        deltas: Numbers of neighbours that they are drawn from, each at least 1.
        extractor: The net; None = the protocol's.

    Raises:
        ValueError: If the grid is out of range.
        InputError: In ``set_up`` and ``start``, if a delta exceeds the codes of a slot.
    """

    quantities = tuple(
        Quantity(
            f"p{distance}_{{net}}",
            convention=f"{_CONVENTION}; {FrechetDistance.convention}",
            higher_is_better=FrechetDistance.higher_is_better,
            meaning=f"The {words} after some tokens were exchanged for neighbours, the mean over a grid.",
        )
        for distance, words in (("fid", "Fréchet inception distance"), ("fd", "Fréchet distance"))
    )
    needs_ids = True

    def __init__(
        self,
        alphas: Sequence[float] = (0.9, 0.8, 0.7, 0.6, 0.5),
        deltas: Sequence[int] = (200, 280, 360),
        extractor: Extractor | None = None,
    ) -> None:
        super().__init__(extractor)
        self.grid = [(float(alpha), int(delta)) for alpha in alphas for delta in deltas]
        self.alphas, self.deltas = tuple(alphas), tuple(deltas)
        if not self.alphas or not all(0 <= alpha <= 1 for alpha in self.alphas):
            raise ValueError(f"alphas must be some fractions in [0, 1], got {list(alphas)}")
        if not self.deltas or not all(delta >= 1 for delta in self.deltas):
            raise ValueError(f"deltas must be some numbers of at least 1, got {list(deltas)}")
        self.changed = [0] * len(self.grid)
        self.ids = 0

    @override
    def set_up(self, bench: Bench) -> None:
        super().set_up(bench)
        self.seed, least = bench.seed, min(bench.tokenizer.quantizer.vocab_sizes)
        if max(self.deltas) > least:
            raise InputError(
                f"measure.{self.key}.deltas must not exceed the {least} codes of the smallest slot, got "
                f"{max(self.deltas)}; give smaller measure.{self.key}.deltas"
            )
        self.distances = [self.net.frechet() for _ in self.grid]

    @override
    def start(self, tokenizer: Tokenizer, size: Size) -> None:
        parameter = tokenizer.decoder.last_layer
        blank = torch.zeros(1, tokenizer.channels, *size, dtype=parameter.dtype, device=parameter.device)
        try:
            ids = tokenizer.quantize(blank, condition=tokenizer.condition_for(1)).ids
            tokenizer.quantizer.neighbours(ids, max(self.deltas))
        except ValueError as error:  # a segment may have fewer codes than the vocabulary that it is part of
            raise InputError(f"measure.{self.key}.deltas: {error}; give smaller ones") from None

    @override
    def update(self, seen: EvaluationBatch) -> None:
        if self.net.stored is None:
            self.net.of_originals(seen)
        tokenizer, quantized = seen.tokenizer, seen.reconstruction.quantized
        ids, keep = quantized.ids, quantized.keep
        whole = keep if keep is not None and keep.shape == ids.shape[:2] else None
        draws = Draws(seen.batch.key, (ids.shape[1], ids.shape[2]), self.seed)
        neighbours = tokenizer.quantizer.neighbours(ids, max(self.deltas))
        self.ids += ids.numel() if whole is None else int(whole.sum()) * ids.shape[2]
        for point, (alpha, delta) in enumerate(self.grid):
            changed = perturb(ids, neighbours, draws, alpha, delta, whole)
            self.changed[point] += int((changed != ids).sum())
            image = tokenizer.decode(Tokens(changed, keep), seen.size, seen.condition)
            require_finite(image, seen.batch.key, "reconstruction from perturbed tokens")
            features = self.net(self.net.protocol.levels(image)).features
            self.distances[point].update(features.to(self.net.device))

    @override
    def numbers(self, size: Size) -> Sequence[Quantity]:
        return [self.quantities[0 if self._name.startswith("pfid_") else 1].named(self._name)]

    @property
    def _name(self) -> str:
        return f"p{self.net.extractor.distance}"

    @override
    def finish(self) -> MeasureResult:
        self.net.keep()
        parts = gather_values((self.ids, *self.changed))
        ids, *changed = (sum(column) for column in zip(*parts, strict=True))
        values = [float(distance.compute().item()) for distance in self.distances]
        rows: list[dict[str, Any]] = [
            {"alpha": alpha, "delta": delta, "changed": count / max(ids, 1), "value": value}
            for (alpha, delta), count, value in zip(self.grid, changed, values, strict=True)
        ]
        facts = {
            **self.net.facts,
            "alphas": list(self.alphas),
            "deltas": list(self.deltas),
            "seed": self.seed,
            "neighbours": "of the code",
        }
        mean = math.fsum(values) / len(values)
        name = self._name
        return MeasureResult(
            {name: Number(mean, f"{_CONVENTION}; {FrechetDistance.convention}", facts)},
            tables={"pfid": {"name": name, "paper_grid_verified": False, "grid": rows}},
        )
