"""pFID: the Fréchet distance of images decoded from perturbed tokens, over a grid (RobustTok, arXiv 2503.08354).

The authors released no code for it. Their training code perturbs by neighbours of the latent, their text by neighbours
of the chosen code; here it is the text. The grid of the paper could not be verified.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from typing_extensions import override

from imtok.distributed import gather_values
from imtok.errors import InputError
from imtok.measures.base import Found, Measure, Number, Seen
from imtok.measures.features import Net
from imtok.measures.frechet import FrechetDistance
from imtok.measures.inference import Size, require_finite
from imtok.measures.perturb import Draws, perturb
from imtok.tokenizer import Tokenizer
from imtok.types import Tokens

_CONVENTION = "mean over a grid of (alpha, delta) of the Fréchet distance to the originals; every image perturbed"


class PerturbedMeasure(Measure):
    """Decodes each image once per point of the grid. Images are encoded once.

    Args:
        net: The net of the rFID, which counts the originals.
        tokenizer: Its quantizer says which codes are neighbours.
        alphas: Parts of the ids that are drawn anew.
        deltas: Numbers of neighbours that they are drawn from.
        seed: Of the draws.

    Raises:
        InputError: If the grid is out of range or latents are continuous; in ``start`` if a delta exceeds the codes
            of a slot.
    """

    def __init__(
        self, net: Net, tokenizer: Tokenizer, alphas: Sequence[float], deltas: Sequence[int], seed: int = 0
    ) -> None:
        self.grid = [(float(alpha), int(delta)) for alpha in alphas for delta in deltas]
        self.net, self.alphas, self.deltas, self.seed = net, tuple(alphas), tuple(deltas), seed
        if not self.grid or not all(0 <= alpha <= 1 and delta >= 1 for alpha, delta in self.grid):
            raise InputError(
                f"pfid needs alphas in [0, 1] and deltas of at least 1, got {list(alphas)} and {list(deltas)}"
            )
        least = min(tokenizer.quantizer.vocab_sizes, default=0)
        if not least:
            raise InputError("pfid needs ids to perturb; the tokenizer's latents are continuous")
        if max(deltas) > least:
            raise InputError(
                f"pfid.deltas must not exceed the {least} codes of the smallest slot, got {max(deltas)}; "
                "give smaller pfid.deltas"
            )
        self.distances = [net.frechet() for _ in self.grid]
        self.changed = [0] * len(self.grid)
        self.ids = 0

    @override
    def start(self, tokenizer: Tokenizer, size: Size) -> None:
        parameter = tokenizer.decoder.last_layer
        blank = torch.zeros(1, 3, *size, dtype=parameter.dtype, device=parameter.device)
        try:
            ids = tokenizer.quantize(blank, condition=tokenizer.condition_for(1)).ids
            tokenizer.quantizer.neighbours(ids, max(self.deltas))
        except ValueError as error:  # a segment may have fewer codes than the vocabulary that it is part of
            raise InputError(f"pfid.deltas: {error}; give smaller pfid.deltas") from None

    @override
    def update(self, seen: Seen) -> None:
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
    def numbers(self, size: Size) -> dict[str, bool | None]:
        return {self._name: FrechetDistance.higher_is_better}

    @property
    def _name(self) -> str:
        return f"p{self.net.extractor.distance}"

    @override
    def finish(self) -> Found:
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
        return Found(
            {name: Number(mean, f"{_CONVENTION}; {FrechetDistance.convention}", facts)},
            tables={"pfid": {"name": name, "paper_grid_verified": False, "grid": rows}},
        )
