"""Further changes of training crops: any of torchvision's transforms, each a pure function of seed, epoch and index."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Real
from torch import Tensor
from torchvision.transforms import v2
from typing_extensions import override

from imtok.construct import find_class
from imtok.data.base import Images
from imtok.data.reading.transforms import Shape, Transform
from imtok.data.sources.pairs import PairSet
from imtok.errors import InputError

KEY = "data.augment"
TRIES = 4  # of each transform before a run begins: some change an image only now and then


class Augmented(Transform):
    """Changes the square that another transform makes.

    The transforms draw from torch's own generator, which is seeded anew for every image and afterwards is what it was.

    Args:
        transform: What makes the square. It draws first, and draws what it draws alone.
        changes: Transforms of torchvision, one after the other.
    """

    def __init__(self, transform: Transform, changes: Sequence[v2.Transform]) -> None:
        self.transform, self.changes = transform, list(changes)
        self.size, self.least = transform.size, transform.least

    @override
    def shaped(self, shape: Shape) -> "Augmented":
        return Augmented(self.transform.shaped(shape), self.changes)

    @override
    def __call__(self, image: Real[Tensor, "c height width"], generator: np.random.Generator) -> Real[Tensor, "c h w"]:
        """The changed square; InputError that names a transform if it fails or makes no such square."""
        square = self.transform(image, generator).clone()  # which a transform may change in place
        with _seeded(int(generator.bit_generator.random_raw())):  # raw numbers stay the same across numpy's versions
            for number, change in enumerate(self.changes):
                square = _changed(square, change, f"{KEY}[{number}]")
        return square.contiguous()


def augmented(images: Images, changes: Sequence[v2.Transform]) -> Images:
    """Training images with further changes.

    Args:
        images: Changed in place.
        changes: Transforms of torchvision; () = the images stay as they are.

    Raises:
        InputError: If a transform changes the size or type of an image, or the images are made from sources that would
            stay as they are.
    """
    if not changes:
        return images
    if any(isinstance(part, PairSet) for part in images.parts):
        raise InputError(f"{KEY} would change images, but not what they are to be made from; leave it out")
    shape = (images.channels, images.image_size, images.image_size)
    trial = torch.arange(math.prod(shape)).remainder(256).to(torch.float32 if images.channels == 1 else torch.uint8)
    for number, change in enumerate(changes):
        for seed in range(TRIES):
            with _seeded(seed):
                _changed(trial.view(shape).clone(), change, f"{KEY}[{number}]")
    for part in images.parts:
        part.transform = Augmented(part.transform, changes)
    return images


def build_augment(section: Any) -> tuple[v2.Transform, ...]:
    """The transforms that ``data.augment`` lists, of the user's own config.

    Raises:
        InputError: That names the first that is none, or refuses its settings.
    """
    if section is not None and not isinstance(section, list):
        raise InputError(f"{KEY} must be a list of transforms [{{_target_: ...}}, ...], got {section!r}")
    return tuple(_build(node, f"{KEY}[{number}]") for number, node in enumerate(section or ()))


def _build(node: Any, key: str) -> v2.Transform:
    """A transform, and those among its arguments; by the names that torchvision's documentation gives."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise InputError(f"{key} must be a section with _target_: torchvision.transforms.v2.NAME, got {node!r}")
    target = str(node["_target_"])
    try:
        found = find_class(target, (v2.Transform,), key)
    except InputError as error:
        name = target.rpartition(".")[2]  # those of before v2 have the same names
        hint = f"; give torchvision.transforms.v2.{name}" if hasattr(v2, name) else ""
        raise InputError(f"{error}{hint}") from None
    arguments = {name: _argument(value, f"{key}.{name}") for name, value in node.items() if name != "_target_"}
    try:
        return found(**arguments)
    except Exception as error:  # transforms are others' code
        raise InputError(f"{key}: {(str(error).splitlines() or [type(error).__name__])[0]}") from None


def _argument(value: Any, key: str) -> Any:
    if isinstance(value, list):
        return [_argument(one, f"{key}[{number}]") for number, one in enumerate(value)]
    return _build(value, key) if isinstance(value, Mapping) and "_target_" in value else value


def _changed(square: Tensor, change: v2.Transform, key: str) -> Tensor:
    name = f"{key} ({type(change).__name__})"
    try:
        whole = not square.is_floating_point()  # torchvision takes floats in [0, 1]
        found = change(square if whole else square / 255)
        found = found if whole or not isinstance(found, Tensor) else found * 255
    except Exception as error:  # transforms are others' code
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{name} cannot change {_kind(square)} images of {square.shape[-1]} pixels a side: {reason}"
        ) from None
    kept = isinstance(found, Tensor) and found.shape == square.shape and found.dtype == square.dtype
    if not kept:
        made = f"{found.dtype} of {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"{name} must keep size and type of an image, {square.dtype} of {list(square.shape)}, and gives {made}"
        )
    return found


def _kind(square: Tensor) -> str:
    return "uint8" if square.dtype == torch.uint8 else "grey"


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's generator of the CPU with a seed of its own; what a run draws from it stays as it was."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs as well, in every worker
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
