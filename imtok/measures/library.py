"""Image metrics of torchmetrics, and others of its class, as measures: the same number on any number of processes."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Real
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat, dim_zero_max, dim_zero_min, dim_zero_sum
from typing_extensions import override

from imtok.distributed import gather_values
from imtok.errors import InputError
from imtok.measures.base import Bench, EvaluationBatch, Measure, MeasureResult, Number, Quantity
from imtok.measures.inference import Size
from imtok.pixels import rgb_levels
from imtok.tokenizer import Tokenizer

_SUMMED: dict[Any, Callable[[list[Any]], Tensor]] = {
    dim_zero_sum: lambda states: torch.stack(states).sum(0),
    dim_zero_max: lambda states: torch.stack(states).amax(0),
    dim_zero_min: lambda states: torch.stack(states).amin(0),
}  # reductions that do not ask how many images a process had
_CONVENTION = "images in [0, 1], rounded to 256 levels, one at a time"


class LibraryMeasure(Measure):
    """A metric whose ``update`` takes reconstruction and original, or images and whether they are real.

    Each image is counted in alone, so that no number depends on the batches. What processes have counted is put
    together here, in the order of the data set, and not by the class.

    Args:
        name: Its name in the config, which is that of the number.
        kind: The class. Where it takes ``data_range`` or ``normalize``, it is told that images lie in [0, 1].
        arguments: Of the class.

    Raises:
        InputError: If ``update`` takes something else, or the arguments say that images lie elsewhere.
    """

    def __init__(self, name: str, kind: type[Metric], arguments: Mapping[str, Any]) -> None:
        self.name, self.title = name, str(getattr(kind, "title", "") or name)
        self.unit, self.meaning = str(getattr(kind, "unit", "")), str(getattr(kind, "meaning", ""))
        self.convention = str(getattr(kind, "convention", "") or f"{kind.__name__} of {_CONVENTION}")
        self.higher_is_better = getattr(kind, "higher_is_better", None)
        self.is_real, self.names = _way(kind, f"measure.{name}")
        self.told = _told(kind, arguments, f"measure.{name}")
        self.metric = kind(**{**arguments, **self.told})
        self.metric.sync_on_compute = self.metric._to_sync = False
        self.whole = False  # whether it wants levels from 0 to 255
        self.order = list[int]()
        self._tried: dict[Size, str | None] = {}

    @override
    def set_up(self, bench: Bench) -> None:
        self.metric, self.seed = self.metric.to(bench.device), bench.seed
        if bench.processes > 1:
            self._require_shares()

    @override
    def missing(self, tokenizer: Tokenizer, size: Size) -> dict[str, str]:
        if size not in self._tried:
            self._tried[size] = self._refused(size)
        reason = self._tried[size]
        return {} if reason is None else {self.name: reason}

    @override
    def start(self, tokenizer: Tokenizer, size: Size) -> None:
        self.fits = not self.missing(tokenizer, size)

    @override
    def update(self, seen: EvaluationBatch) -> None:
        if self.fits:
            for row, index in enumerate(seen.batch.index.tolist()):
                self._count(self.metric, seen.pixels[row : row + 1], seen.target[row : row + 1])
                self.order.append(index)

    @override
    def numbers(self, size: Size) -> Sequence[Quantity]:
        return super().numbers(size) if not self._tried.get(size) else ()

    @override
    def finish(self) -> MeasureResult:
        if not self.fits:
            return MeasureResult(absent={self.name: next(filter(None, self._tried.values()), "it was refused")})
        self._put_together()
        try:
            values = _values(self._compute(self.metric))
        except Exception as error:  # libraries have errors of their own
            return MeasureResult(absent={self.name: _reason(error)})
        if values is None:
            return MeasureResult(absent={self.name: _NO_NUMBER})
        return MeasureResult(
            {name: Number(value, self.convention) for name, value in zip(self._names, values, strict=False)}
        )

    @property
    def _names(self) -> tuple[str, str]:
        return self.name, f"{self.name}_std"

    def _count(self, metric: Metric, image: Real[Tensor, "1 c h w"], target: Real[Tensor, "1 c h w"]) -> None:
        update: Callable[..., None] = metric.update
        made, original = (self._levels(rgb_levels(part).to(metric.device)) for part in (image, target))
        if self.is_real:
            update(original, real=True)
            update(made, real=False)
        elif self.names == ("target", "preds"):
            update(original, made)
        else:
            update(made, original)

    def _levels(self, image: Real[Tensor, "1 c h w"]) -> Real[Tensor, "1 c h w"]:
        return image if self.whole else image.float() / 255

    def _compute(self, metric: Metric) -> Any:
        """The value, whatever is drawn for it."""
        metric._update_count = max(metric._update_count, 1)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return metric.compute()

    def _refused(self, size: Size) -> str | None:
        """Why images of a size cannot be measured, found out on two of noise; None = they can."""
        noise = torch.randint(256, (4, 1, 3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        reason = ""
        for self.whole in (False, True):
            metric = deepcopy(self.metric)
            try:
                with torch.no_grad(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    for image, target in (noise[:2], noise[2:]):
                        self._count(metric, image, target)
                break
            except Exception as error:  # libraries have errors of their own
                reason = reason or f"{type(metric).__name__} refuses images of {size[1]}x{size[0]} ({_reason(error)})"
        else:
            return reason
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = self._compute(metric)
        except Exception:  # two images may be too few
            return None
        return _NO_NUMBER if _values(found) is None else None

    def _require_shares(self) -> None:
        """Refuse a class whose state does not say how many images it is of, or that keeps some aside."""
        kind, key = type(self.metric).__name__, f"measure.{self.name}"
        several = f"cannot be measured on several processes: leave {key} out, or give trainer.devices=1"
        if len([part for part in self.metric.modules() if isinstance(part, Metric)]) > 1:
            raise InputError(f"{key}: {kind} holds other metrics, so it {several}")
        noise = torch.randint(256, (2, 1, 3, 256, 256), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        metric = deepcopy(self.metric)
        try:
            self._count(metric, *noise)
        except Exception:  # refused for its reason before anything is measured
            return
        for name, reduction in self.metric._reductions.items():
            default, state = self.metric._defaults[name], getattr(metric, name)
            listed = isinstance(default, list) and reduction in (dim_zero_cat, None)
            still = isinstance(default, Tensor) and torch.equal(default.to(state), state)  # a setting, as all have it
            if not listed and not still and reduction not in _SUMMED:
                how = getattr(reduction, "__name__", str(reduction)).removeprefix("dim_zero_")
                raise InputError(
                    f"{key}: {kind} puts {name} of several processes together by {how}, which is wrong where they have "
                    f"different numbers of images, so it {several}"
                )
        for name in self._lists():
            if len(getattr(metric, name)) != 1:
                raise InputError(f"{key}: {kind} keeps {name} by batches and not by images, so it {several}")

    def _lists(self) -> list[str]:
        return [name for name, default in self.metric._defaults.items() if isinstance(default, list)]

    def _put_together(self) -> None:
        """Bring in what the other processes have counted."""
        metric = self.metric
        own = {name: getattr(metric, name) for name in metric._defaults}
        own = {
            name: [one.cpu() for one in state] if isinstance(state, list) else state.cpu()
            for name, state in own.items()
        }
        parts = gather_values((self.order, own))
        if len(parts) == 1:
            return
        for name, reduction in metric._reductions.items():
            if name in self._lists():
                rows = sorted(
                    ((index, one) for order, states in parts for index, one in zip(order, states[name], strict=True)),
                    key=lambda row: row[0],
                )
                setattr(metric, name, [one.to(metric.device) for _, one in rows])
            elif reduction in _SUMMED:
                merged = _SUMMED[reduction]([states[name] for _, states in parts])
                setattr(metric, name, merged.to(metric.device))


_NO_NUMBER = "its result is no single number, nor a mean with a deviation"


def _way(kind: type[Metric], key: str) -> tuple[bool, tuple[str, ...]]:
    """Whether ``update`` takes images and whether they are real, and the names of what it must be given."""
    parameters = list(inspect.signature(kind.update).parameters.values())[1:]
    must = [one for one in parameters if one.default is one.empty]
    named = tuple(one.name for one in must)
    plain = all(one.kind is one.POSITIONAL_OR_KEYWORD for one in must)
    real = any(one.name == "real" for one in parameters)
    if plain and (len(set(named) - {"real"}) == 1 if real else len(must) == 2):
        return real, named
    raise InputError(
        f"{key}: {kind.__name__}.update takes ({', '.join(one.name for one in parameters)}), and images are handed to "
        "one that takes (preds, target) or (images, real)"
    )


def _told(kind: type[Metric], arguments: Mapping[str, Any], key: str) -> dict[str, Any]:
    """What a class is told of the images where the config leaves it out."""
    takes, told = inspect.signature(kind).parameters, dict[str, Any]()
    if "data_range" in takes and arguments.get("data_range") is None:
        told["data_range"] = 1.0
    normalize = takes.get("normalize")
    if normalize is not None and normalize.default is False:
        if arguments.get("normalize", True) is not True:
            raise InputError(f"{key}.normalize must be true or left out, since images are handed in [0, 1]")
        told["normalize"] = True
    return told


def _values(found: Any) -> list[float] | None:
    """A number, or a mean with its deviation; None = something else."""
    several = list(found) if isinstance(found, (tuple, list)) else [found]
    if len(several) > 2 or not all(isinstance(one, (Tensor, float, int)) for one in several):
        return None
    tensors = [torch.as_tensor(one) for one in several]
    return [float(one) for one in tensors] if tensors and all(one.numel() == 1 for one in tensors) else None


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
