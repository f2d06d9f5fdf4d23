"""Running means of a step's terms and counts of its codes, between two rows of the log."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from imtok.distributed import rank, sum_over_ranks, world_size
from imtok.metrics.codes import LARGEST_VOCABULARY, CodeUsage
from imtok.types import CriticLosses, Losses, Shown


class Meters:
    """Sums that stay on the device and are reduced over ranks only when a row is written.

    Micro-batches are noted, and counted once their step has succeeded. Each weighs as many images as it holds, so the
    means are over images, also where a run goes on with another number of processes between two rows. A term that some
    steps do not have is a mean over the others.

    Attributes:
        terms: Names of the losses that were noted since the last reading, without weighted ones and other numbers.
    """

    def __init__(self) -> None:
        self._noted: list[tuple[dict[str, Tensor], Shown]] = []
        self._sums: dict[str, Tensor] = {}
        self._images: dict[str, int] = {}
        self._codes: list[tuple[Tensor, Tensor | None]] = []
        self.terms: set[str] = set()
        self._latest: dict[str, float] = {}

    def note(self, losses: Losses, critic: CriticLosses | None = None) -> None:
        """Note one micro-batch: the tokenizer's terms, and the critic's where it has learnt from it."""
        values = {"loss": losses.total.detach()}
        for part in (losses, critic) if critic is not None else (losses,):
            self.terms.update(part.terms)
            for name, (value, weight) in part.terms.items():
                values[name] = value.detach()
                if weight != 1:
                    values[f"{name}_weighted"] = value.detach() * weight
            values |= {name: value.detach() for name, value in part.numbers.items()}
        self._noted.append((values, losses.shown))

    def commit(self, latest: dict[str, float]) -> None:
        """Count what was noted; ``latest`` are values of the step that are shown as they are."""
        for values, shown in self._noted:
            images = len(shown.target)
            for name, value in values.items():
                share = value.double() * images
                self._sums[name] = self._sums[name] + share if name in self._sums else share
                self._images[name] = self._images.get(name, 0) + images
            self._codes.append((shown.quantized.ids, shown.quantized.keep))
        self._latest = latest
        self._noted = []

    def discard(self) -> None:
        """Forget what was noted."""
        self._noted = []

    def read(self, vocab_sizes: Sequence[int]) -> dict[str, float]:
        """Means over all ranks since the last reading; starts anew. Nothing if no step has succeeded since.

        Usage and perplexity of the codes seen come with them, unless the vocabulary is too large to count.
        """
        if not self._sums:  # on all ranks alike: they count the same steps
            return {}
        names = sorted(self._sums)
        first = self._sums[names[0]]
        counts = torch.tensor([self._images[name] for name in names], dtype=first.dtype, device=first.device)
        sums, images = sum_over_ranks(torch.stack([torch.stack([self._sums[name] for name in names]), counts]))
        row = dict(zip(names, (sums / images).tolist(), strict=True))
        if vocab_sizes and max(vocab_sizes) <= LARGEST_VOCABULARY:
            usage = CodeUsage(vocab_sizes, sync_on_compute=False).to(first.device)
            for ids, keep in self._codes:
                usage.update(ids, keep if keep is None or keep.shape == ids.shape[:2] else None)
            for counts in usage.counts:
                counts.copy_(sum_over_ranks(counts))
            statistics = usage.compute()
            row |= {name: sum(statistics[name]) / len(statistics[name]) for name in ("usage", "perplexity")}
        row |= self._latest
        self.__init__()
        return row

    @property
    def tokens(self) -> int:
        """Tokens counted since the last reading, over all ranks."""
        return sum(ids.shape[0] * ids.shape[1] for ids, _ in self._codes) * world_size()

    def state_dict(self) -> dict[str, Any]:
        """Everything that this rank has counted since the last reading, as plain tensors and numbers."""
        return {
            "sums": {name: value.cpu() for name, value in self._sums.items()},
            "images": dict(self._images),
            "codes": [(ids.cpu(), None if keep is None else keep.cpu()) for ids, keep in self._codes],
            "latest": self._latest,
        }

    def load_state_dicts(self, states: list[dict[str, Any]], device: torch.device) -> None:
        """Go on from the ``state_dict`` of each rank, with the sums on ``device``.

        With as many ranks as then, each takes its own, and sums go on in the same order, bit for bit. With another
        number rank 0 takes all of them.
        """
        own = [states[rank()]] if len(states) == world_size() else states if rank() == 0 else []
        nothing = torch.zeros((), dtype=torch.float64)
        for name in states[0]["sums"]:
            self._sums[name] = torch.stack([nothing, *(state["sums"][name] for state in own)]).sum().to(device)
            self._images[name] = sum(state["images"][name] for state in own)
        codes = [entry for state in own for entry in state["codes"]]
        self._codes = [(ids.to(device), None if keep is None else keep.to(device)) for ids, keep in codes]
        self._latest = states[0]["latest"]
