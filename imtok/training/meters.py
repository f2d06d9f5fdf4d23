"""Running means of a step's terms and counts of its codes, between two rows of the log."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from imtok.distributed import rank, sum_over_ranks, world_size
from imtok.errors import InputError
from imtok.measures.code_statistics import LARGEST_VOCABULARY, code_statistics
from imtok.quantizers.base import check_ids
from imtok.types import Losses, NetLosses, StepOutput


class Meters:
    """Sums that stay on the device and are reduced over ranks only when a row is written.

    Micro-batches are noted, and counted once their step has succeeded. Each weighs as many images as it holds, so the
    means are over images, also where a run goes on with another number of processes between two rows. A term that some
    steps do not have is a mean over the others.

    Attributes:
        terms: Names of the losses that were noted since the last reading, without weighted ones and other numbers.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        """Begin with nothing noted and nothing counted."""
        self.terms: set[str] = set()
        self._noted: list[tuple[dict[str, Tensor], int]] = []
        self._sums: dict[str, Tensor] = {}
        self._images: dict[str, int] = {}
        self._latest: dict[str, float] = {}

    def note(self, values: dict[str, Tensor], images: int) -> None:
        """Note one micro-batch: means over its images, by name; "loss" is among them."""
        self._noted.append(({name: value.detach() for name, value in values.items()}, images))

    def commit(self, latest: dict[str, float]) -> None:
        """Count what was noted; ``latest`` are values of the step that are shown as they are."""
        for values, images in self._noted:
            for name, value in values.items():
                share = value.double() * images
                self._sums[name] = self._sums[name] + share if name in self._sums else share
                self._images[name] = self._images.get(name, 0) + images
        self._latest = latest
        self._noted = []

    def discard(self) -> None:
        """Forget what was noted."""
        self._noted = []

    def read(self) -> dict[str, float]:
        """Means over all ranks since the last reading; starts anew. Nothing if no step has succeeded since."""
        if not self._sums:  # on all ranks alike: they count the same steps
            return {}
        names = sorted(self._sums)
        first = self._sums[names[0]]
        counts = torch.tensor([self._images[name] for name in names], dtype=first.dtype, device=first.device)
        sums, images = sum_over_ranks(torch.stack([torch.stack([self._sums[name] for name in names]), counts]))
        row = dict(zip(names, (sums / images).tolist(), strict=True)) | self._counted(first.device) | self._latest
        self._begin()
        return row

    def _begin(self) -> None:
        """Forget everything."""
        self._forget()

    def _counted(self, device: torch.device) -> dict[str, float]:
        """What is read besides the means."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that this rank has counted since the last reading, as plain tensors and numbers."""
        return {
            "sums": {name: value.cpu() for name, value in self._sums.items()},
            "images": dict(self._images),
            "latest": self._latest,
        }

    def load_state_dicts(self, states: list[dict[str, Any]], device: torch.device) -> None:
        """Go on from the ``state_dict`` of each rank, with the sums on ``device``.

        With as many ranks as then, each takes its own, and sums go on in the same order, bit for bit. With another
        number rank 0 takes all of them.
        """
        own = self._own(states)
        nothing = torch.zeros((), dtype=torch.float64)
        for name in states[0]["sums"]:
            self._sums[name] = torch.stack([nothing, *(state["sums"][name] for state in own)]).sum().to(device)
            self._images[name] = sum(state["images"][name] for state in own)
        self._latest = states[0]["latest"]

    @staticmethod
    def _own(states: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [states[rank()]] if len(states) == world_size() else states if rank() == 0 else []


class TokenizerMeters(Meters):
    """The same, with counts of the codes that were seen.

    Codes are counted, not kept: what is held does not grow between two rows.

    Args:
        vocab_sizes: Number of ids in each slot; not counted where there are none, or too many.
    """

    def __init__(self, vocab_sizes: Sequence[int]) -> None:
        super().__init__()
        self.vocab_sizes = tuple(vocab_sizes)
        self._countable = bool(vocab_sizes) and max(vocab_sizes) <= LARGEST_VOCABULARY
        self._codes = torch.zeros(sum(self.vocab_sizes) if self._countable else 0, dtype=torch.int64)  # slot after slot
        self._seen: list[StepOutput] = []

    def note_losses(self, losses: Losses, *nets: NetLosses) -> None:
        """Note one micro-batch: the tokenizer's terms, and those of each further net that has learnt from it.

        Raises:
            InputError: If two of them have a term of one name, which would stand for each other in the log.
        """
        values = {"loss": losses.total}
        for part in (losses, *nets):
            if twice := sorted(part.terms.keys() & values.keys()):
                raise InputError(f"objective: names of losses must differ among its nets, got {', '.join(twice)} twice")
            self.terms.update(part.terms)
            for name, (value, weight) in part.terms.items():
                values[name] = value
                if weight != 1:
                    values[f"{name}_weighted"] = value.detach() * weight
            values |= part.numbers
        self.note(values, len(losses.shown.target))
        self._seen.append(losses.shown)

    @override
    def commit(self, latest: dict[str, float]) -> None:
        for shown in self._seen:
            self._count(shown.quantized.ids, shown.quantized.keep)
        self._seen = []
        super().commit(latest)

    @override
    def discard(self) -> None:
        self._seen = []
        super().discard()

    @override
    def _counted(self, device: torch.device) -> dict[str, float]:
        """Usage and perplexity of the codes seen, unless the vocabulary is too large to count: means over slots.

        Besides, the ``tokens`` that they were seen in, and ``usage_ceiling``, the usage if all of these differed.
        """
        if not self._countable:
            return {}
        counted = sum_over_ranks(self._codes.to(device)).split(list(self.vocab_sizes))
        statistics = code_statistics(counted)
        row = {name: sum(statistics[name]) / len(statistics[name]) for name in ("usage", "perplexity")}
        tokens = int(counted[0].sum())
        ceilings = [min(1.0, tokens / size) for size in self.vocab_sizes]
        return row | {"usage_ceiling": sum(ceilings) / len(ceilings), "tokens": tokens}

    @override
    def _begin(self) -> None:
        TokenizerMeters.__init__(self, self.vocab_sizes)

    def _count(self, ids: Tensor, keep: Tensor | None) -> None:
        if not self._countable:
            return
        if ids.device.type == "cpu":  # elsewhere it would wait for the device
            check_ids(ids, self.vocab_sizes)
        self._codes = self._codes.to(ids.device)
        firsts = torch.tensor([0, *accumulate(self.vocab_sizes[:-1])], device=ids.device)
        counts = torch.ones_like(ids)
        if keep is not None and keep.shape == ids.shape[:2]:
            counts = counts * keep[..., None]
        self._codes.index_add_(0, (ids + firsts).flatten(), counts.flatten())

    @override
    def state_dict(self) -> dict[str, Any]:
        codes = {"places": self._codes.nonzero()[:, 0].cpu(), "counts": self._codes[self._codes > 0].cpu()}
        return {**super().state_dict(), "codes": codes}

    @override
    def load_state_dicts(self, states: list[dict[str, Any]], device: torch.device) -> None:
        super().load_state_dicts(states, device)
        for codes in (state["codes"] for state in self._own(states)):
            if isinstance(codes, dict):
                self._codes.index_add_(0, codes["places"], codes["counts"])
                continue
            for ids, keep in codes:  # checkpoints from before codes were counted hold them all
                self._count(ids, keep)
        self._codes = self._codes.to(device)
