"""A step tried on shapes alone before a run writes anything: parts that do not fit cost no folder and no steps."""

import copy
import logging
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import einops
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from imtok.conditions.base import example_caption
from imtok.decoders.base import GenerativeDecoder
from imtok.errors import InputError
from imtok.objectives.base import Objective
from imtok.tokenizer import Tokenizer
from imtok.training.flops import Flops
from imtok.training.task import fixed
from imtok.types import Batch

log = logging.getLogger(__name__)

_IMAGES = 8  # images of a micro-batch that are tried; random draws for them have real values
_REAL_IMAGES, _REAL_SIDE, _REAL_PARAMETERS = 2, 64, 5_000_000  # limits for computing with real values: about a second
_PACKAGE = Path(__file__).parents[1]
_LIBRARIES = tuple(Path(str(library.__file__)).parent for library in (torch, einops))
_FEW = 64  # numbers that may be drawn with real values without a generator of their own
_PLAIN = (torch.ops.aten.scalar_tensor, torch.ops.aten.arange)
_INDEXING = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)
_LOCAL = {"objective.critic": "objective.adversary"}  # where a module is not called as its section is


@dataclass(frozen=True)
class Rehearsal:
    """One training step, tried before the run.

    Attributes:
        images: In a micro-batch.
        image_size: Their side, in pixels.
        step: Optimiser step whose schedules count; best a late one, when all terms are there.
        bf16: Whether the run computes in bf16.
        config: The run's config as plain values, by whose keys a part that refuses is named.
        bucket: Height and width of the images, in pixels, if they are not squares of ``image_size``.
    """

    images: int
    image_size: int
    step: int
    bf16: bool
    config: dict[str, Any]
    bucket: tuple[int, int] | None = None

    def __call__(self, tokenizer: Tokenizer, objective: Objective) -> None:
        """Try a training step and a reconstruction on copies that have shapes and no values.

        Takes no memory and no time to speak of, whatever the size of the nets, and leaves no trace: the parts,
        their statistics and all random states are as before. What only values can show is not found; where torch
        cannot follow a part by shapes, small parts compute with zeros instead, and large ones are left alone.

        Raises:
            InputError: If a part refuses what another gives it, named by its config key.
        """
        with torch.random.fork_rng(devices=[]):
            mode = FakeTensorMode(allow_non_fake_inputs=True)
            try:
                with FakeCopyMode(mode):
                    parts = copy.deepcopy((tokenizer, objective))
            except Exception as error:  # a part of a user's own that holds what cannot be copied, a lock or a file
                log.debug("not tried before the run: %s", error)
                return
            try:
                with mode, RealDraws():
                    self._try(*parts, min(self.images, _IMAGES))
                return
            except Exception as error:  # a part that refuses, or one that cannot be followed by shapes
                self._refuse(error, *parts)
                log.debug("not followed by shapes: %s", error)
            parameters = sum(parameter.numel() for part in parts for parameter in part.parameters())
            if parameters > _REAL_PARAMETERS or max(self._size) > _REAL_SIDE:
                return
            parts = copy.deepcopy((tokenizer, objective))
            try:
                self._try(*parts, min(self.images, _REAL_IMAGES))
            except Exception as error:
                self._refuse(error, *parts)
                self._refuse(error, *parts, kind=RuntimeError)
                raise

    def flops(self, tokenizer: Tokenizer, objective: Objective) -> float | None:
        """Floating-point operations of a training step for each image, with backward passes and recomputation.

        They are counted on shapes, as ``__call__`` tries a step. None = torch cannot follow the parts by shapes.
        """
        count = min(self.images, _IMAGES)
        with torch.random.fork_rng(devices=[]):
            mode = FakeTensorMode(allow_non_fake_inputs=True)
            try:
                with FakeCopyMode(mode):
                    parts = copy.deepcopy((tokenizer, objective))
                with mode, RealDraws(), Flops() as counted:
                    self._step(*parts, count, learn=True)
            except Exception as error:
                log.debug("not counted by shapes: %s", error)
                return None
        return counted.total / count

    @property
    def _size(self) -> tuple[int, int]:
        return self.bucket or (self.image_size, self.image_size)

    def _try(self, tokenizer: Tokenizer, objective: Objective, count: int) -> None:
        batch = self._step(tokenizer, objective, count)
        if not isinstance(tokenizer.decoder, GenerativeDecoder):  # one that draws takes many steps
            with self._precision(), torch.no_grad():
                exact = next((parameter.dtype for parameter in tokenizer.parameters()), torch.float32)
                condition = tokenizer.condition_for(1, batch.caption[:1], batch.label[:1])
                image = torch.zeros(1, tokenizer.channels, *self._size, dtype=exact)
                tokenizer.eval()(image, condition=condition)

    def _step(self, tokenizer: Tokenizer, objective: Objective, count: int, learn: bool = False) -> Batch:
        """The losses of a step, and with ``learn`` their gradients; returns the images that it took."""
        channels = tokenizer.channels
        image = torch.zeros(count, channels, *self._size, dtype=torch.float32 if channels == 1 else torch.uint8)
        keys = [str(number) for number in range(count)]
        with unset_fake_temporarily():  # a condition looks at the values of labels
            labels = torch.full((count,), -1)
        captions = [example_caption(tokenizer.condition)] * count
        batch = Batch(image, labels, torch.arange(count), keys, caption=captions)
        objective.begin(tokenizer)
        tokenizer.train()
        objective.train()
        if tokenizer.space is not None:
            tokenizer.space.cache = None  # of pictures, of which there is none here
        nets = objective.nets()
        with fixed(nets.values()):
            with self._precision():
                losses = objective(tokenizer, batch, self.step, torch.Generator().manual_seed(0))
            if learn:
                losses.total.backward()
        for name in nets:
            first = objective.net_start(name)  # the step in which a critic starts has all of its terms
            with fixed(net for other, net in nets.items() if other != name), self._precision():
                own = objective.net_losses(name, losses.shown, self.step if first is None else min(first, self.step))
            if learn and own is not None:
                own.total.backward()
        return batch

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext()

    def _refuse(self, error: Exception, tokenizer: Tokenizer, objective: Objective, kind: type = ValueError) -> None:
        """Raise one line for the user if a part of imtok said no, or torch did in a call of such a part."""
        if isinstance(error, InputError):
            raise error
        if not isinstance(error, kind) or not _raised_by_a_part(error.__traceback__, kind is not ValueError):
            return
        names = {id(part): name for name, part in objective.named_modules(prefix="objective")}
        names |= {id(part): name for name, part in tokenizer.named_modules()}
        part = _innermost(error.__traceback__, names)
        said = (str(error).splitlines() or [type(error).__name__])[0]
        asked = f"image_size is {self.image_size}"
        if self.bucket is not None:
            asked = f"data.buckets has {self.bucket[0]} x {self.bucket[1]} pixels"
        size = f"; {asked}" if "pixels" in said or self.bucket is not None else ""
        raise InputError(f"parts of the config do not go together: {self._key(part, names)}{said}{size}") from error

    def _key(self, part: nn.Module | None, names: dict[int, str]) -> str:
        """Config key and class of the section that a module belongs to, and a colon."""
        path = names.get(id(part), "")
        for own, section in _LOCAL.items():
            path = section + path.removeprefix(own) if path == own or path.startswith(f"{own}.") else path
        node, found, name = self.config, [], ""
        for key in filter(None, path.split(".")):
            if not isinstance(node, dict) or not isinstance(node.get(key), dict):
                break
            node, found = node[key], [*found, key]
            name = str(node["_target_"]).rpartition(".")[2] if "_target_" in node else name
        return f"{'.'.join(found)} ({name}): " if found and name else ""


class RealDraws(TorchDispatchMode):
    """Gives real values to random draws and to what depends on these alone, since a step may branch on them."""

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        few = func.overloadpacket is torch.ops.aten.rand and math.prod(args[0]) <= _FEW
        drawn = few or kwargs.get("generator") is not None or func.overloadpacket in _PLAIN
        if (drawn or given) and not any(isinstance(tensor, FakeTensor) for tensor in given):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func.overloadpacket in _INDEXING:  # a mask with values picks a known number of rows
            args = (args[0], [place for index in args[1] for place in _places(index)], *args[2:])
        return func(*args, **kwargs)


def _places(index: Tensor | None) -> tuple[Tensor | None, ...]:
    if index is None or isinstance(index, FakeTensor) or index.dtype != torch.bool:
        return (index,)
    with unset_fake_temporarily():
        return index.nonzero().unbind(1)


def _raised_by_a_part(traceback: TracebackType | None, through_libraries: bool) -> bool:
    """Whether the error comes from a file of imtok; or from torch, called by one."""
    files = [Path(frame.tb_frame.f_code.co_filename) for frame in _frames(traceback)]
    while through_libraries and files and any(files[-1].is_relative_to(library) for library in _LIBRARIES):
        files.pop()
    return bool(files) and files[-1].is_relative_to(_PACKAGE)


def _innermost(traceback: TracebackType | None, names: dict[int, str]) -> nn.Module | None:
    """The last named module whose method was running."""
    owners = [frame.tb_frame.f_locals.get("self") for frame in _frames(traceback)]
    return next((owner for owner in reversed(owners) if id(owner) in names), None)


def _frames(traceback: TracebackType | None) -> list[TracebackType]:
    found = []
    while traceback is not None:
        found.append(traceback)
        traceback = traceback.tb_next
    return found
