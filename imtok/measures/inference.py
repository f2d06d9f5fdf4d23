"""What evaluation and export share: a tokenizer in evaluation mode and a data set read from end to end."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from imtok.distributed import gather_values
from imtok.errors import InputError
from imtok.nn.exact import with_tf32
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

Size = tuple[int, int]


@contextmanager
def evaluating(tokenizer: Tokenizer) -> Iterator[None]:
    """Evaluation mode without gradients or TF32; afterwards every sub-module is in the mode that it was in."""
    modes = {module: module.training for module in tokenizer.modules()}
    tokenizer.eval()
    try:
        with torch.inference_mode(), with_tf32(False):
            yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def together() -> Iterator[None]:
    """Let an InputError of one rank end the block on all: the others would wait for the failed one without end."""
    reason = None
    try:
        yield
    except InputError as error:
        reason = str(error)
    first = next(filter(None, gather_values(reason)), None)
    if first is not None:
        raise InputError(first)


def read_images(
    tokenizer: Tokenizer, loader: Iterable[Batch], device: torch.device, bad: list[str], whole: bool = False
) -> Iterator[tuple[Batch, Float[Tensor, "b c h w"], Size]]:
    """Every batch that holds images, its images as ``tokenizer`` takes them, and their height and width.

    Args:
        tokenizer: Says which sizes can be read, and in which precision.
        loader: The data set.
        device: Where the images are wanted.
        bad: ``key: reason`` of every sample that could not be decoded is appended to it.
        whole: Batches may differ in size.

    Raises:
        InputError: If the images differ in size or the tokenizer cannot read them.
    """
    first: Size | None = None
    for batch in loader:
        bad.extend(batch.bad)
        if not len(batch.image):
            continue
        size = (batch.image.shape[-2], batch.image.shape[-1])
        if whole:
            yield batch, to_float(batch.image.to(device)).to(tokenizer.decoder.last_layer.dtype), size
            continue
        if first is None:
            first = size
            try:
                tokenizer.num_tokens(size)
            except ValueError as error:
                raise InputError(f"{batch.key[0]}: the tokenizer cannot read {name_size(size)} ({error})") from None
        if size != first:
            raise InputError(f"{batch.key[0]}: images must all have {name_size(first)}, got {name_size(size)}")
        yield batch, to_float(batch.image.to(device)).to(tokenizer.decoder.last_layer.dtype), size


def common_size(size: Size) -> Size:
    """The size of the images of all ranks, (0, 0) standing for none; InputError if they differ."""
    sizes = sorted(set(gather_values(size)) - {(0, 0)})
    if len(sizes) > 1:
        raise InputError(f"images must all have {name_size(sizes[0])}, got {name_size(sizes[1])} on another rank")
    return sizes[0] if sizes else (0, 0)


def require_images(count: int, bad: Sequence[str]) -> None:
    """Raise InputError if the whole data set held no image."""
    if not count:
        reason = f"all {len(bad)} are unreadable, the first one {bad[0]}" if bad else "it is empty"
        raise InputError(f"the data set must hold at least one readable image, but {reason}")


def require_finite(values: Float[Tensor, "b ..."], keys: Sequence[str], what: str) -> None:
    """Raise InputError that names the first image whose ``values`` hold NaN or infinity."""
    refuse_infinite(are_finite(values), keys, what)


def are_finite(values: Float[Tensor, "b ..."]) -> Bool[Tensor, " b"]:
    """Which images' values hold neither NaN nor infinity; nothing waits for a device that still computes them."""
    return torch.isfinite(values).flatten(1).all(1)


def refuse_infinite(finite: Bool[Tensor, " b"], keys: Sequence[str], what: str) -> None:
    """Raise InputError that names the first image whose values are not finite."""
    if not finite.all():
        key = keys[int(finite.int().argmin())]
        raise InputError(f"{key}: its {what} must be finite, got NaN or infinity; the tokenizer's weights are damaged")


def name_size(size: Size) -> str:
    """Height and width in words, width first as people write it."""
    return f"{size[1]}x{size[0]} pixels"
