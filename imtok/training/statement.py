"""What a run is about to do, in some lines for the terminal."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from imtok.data.base import Images
from imtok.data.order.buckets import BucketSet
from imtok.distributed import device_name
from imtok.nn.frozen import Frozen
from imtok.objectives.base import Objective
from imtok.tokenizer import Tokenizer
from imtok.training.buckets import name_shape
from imtok.training.settings import TrainerSettings

ENOUGH = 10  # images held out, for numbers that say anything


def statement(
    tokenizer: Tokenizer,
    objective: Objective,
    images: tuple[Images, Images],
    side: int,
    trainer: TrainerSettings,
    devices: tuple[torch.device, int],
    place: tuple[int, str],
) -> list[str]:
    """Device, data, tokens, parameters, length and folder, a line each.

    Args:
        tokenizer: What is trained.
        objective: What judges it.
        images: To train on, and held out.
        side: Side of the images, in pixels.
        trainer: Length, batch and precision; ``accumulate`` is known.
        devices: This process's, and how many there are.
        place: The step at which the run begins, and its folder.
    """
    quantizer, first = tokenizer.quantizer, place[0]
    tokens, bits = tokenizer.num_tokens((side, side)), quantizer.bits_per_token
    each = f"{bits:.4g} bits" if quantizer.vocab_sizes else f"{quantizer.dim} channels"
    total = f", {tokens * bits:,.0f} bits" if quantizer.vocab_sizes else " that are not quantized"
    told = () if tokenizer.condition is None else ("condition",)
    parts = ", ".join(_part(name, getattr(tokenizer, name)) for name in ("encoder", "quantizer", "decoder", *told))
    rows = {
        "device": f"{device_name(*devices)}, {trainer.precision}",
        "images": f"{images[0].size} to train on, {images[1].size} held out, {side} x {side} pixels",
        "tokens": f"{tokens:,} per image of {each}{total}",
        "parameters": parts,
    }
    beside = list(_beside(tokenizer, objective))
    if beside:
        rows["beside it"] = ", ".join(beside)
    micro = f" in {trainer.accumulate} micro-batches" if trainer.accumulate > 1 else ""
    epochs = _epochs(images[0], trainer)
    rows["steps"] = f"{trainer.max_steps:,} of {trainer.batch_size:,} images{micro}{epochs}"
    rows["steps"] += f", going on after step {first:,}" if first else ""
    rows["steps"] += f", to stop after step {trainer.stop_at:,}" if trainer.stop_at else ""
    if isinstance(images[0], BucketSet):
        rows["buckets"] = _buckets(images[0], tokenizer, trainer.batch_size)
    rows["folder"] = place[1]
    return [f"{name:<11} {text}" for name, text in rows.items()]


def too_few(images: tuple[Images, Images], data: Mapping[str, Any]) -> list[str]:
    """That hardly any image is held out, with the key that holds out more; a line or none.

    Args:
        images: To train on, and held out.
        data: The section of the config.
    """
    trained, held_out = images
    if trained.count is None or held_out.count is None or held_out.count >= ENOUGH:
        return []
    if data.get("val_fraction") is None or data.get("val_path"):
        return []
    fraction = min(0.5, math.ceil(20 * ENOUGH / (trained.count + held_out.count)) / 20)
    only = f"only {held_out.count} image{'s are' if held_out.count != 1 else ' is'} held out"
    return [f"{only}, so the numbers at the end say little; data.val_fraction={fraction:g} holds out more"]


def _part(name: str, part: nn.Module) -> str:
    learning = _count(value for value in part.parameters() if value.requires_grad)
    every = _count(part.parameters())
    rest = f", {_millions(every - learning)} of them frozen" if learning < every else ""
    return f"{name} {_millions(every)} ({type(part).__name__}{rest})"


def _beside(tokenizer: Tokenizer, objective: Objective) -> Iterable[str]:
    """Nets that are used in training and not exported."""
    for name, part in (*objective.nets().items(), ("heads", objective.heads())):
        learning = _count(value for value in part.parameters() if value.requires_grad) if part is not None else 0
        if learning:
            yield f"{name} {_millions(learning)}"
    held = [part for part in objective.modules() if isinstance(part, Frozen)]
    nets = _tensors([tokenizer.space] if tokenizer.space is not None else [])
    nets |= _tensors([objective, *(part.net for part in held)])
    trained = {id(value) for value in objective.parameters() if value.requires_grad}
    frozen = sum(value.numel() for key, value in nets.items() if key not in trained)
    if frozen >= 1000:  # constants are no nets
        yield f"frozen nets {_millions(frozen)}"


def _tensors(parts: Iterable[nn.Module]) -> dict[int, Tensor]:
    return {id(value): value for part in parts for value in (*part.parameters(), *part.buffers())}


def _count(values: Iterable[Tensor]) -> int:
    return sum(value.numel() for value in values)


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count >= 100_000 else f"{count:,}"


def _buckets(images: BucketSet, tokenizer: Tokenizer, batch: int) -> str:
    """The shapes of training images, with how many images and tokens each has."""
    found = list[str]()
    for shape, count in zip(images.shapes, images.counts, strict=True):
        few = ", fewer than a batch, so some come twice in one" if 0 < count < batch else ""
        number = f"{count:,} image{'s' * (count != 1)}{few}" if count else "no image"
        found.append(f"{name_shape(shape)} ({number}, {tokenizer.num_tokens(shape):,} tokens)")
    return f"{', '.join(found)}; height x width, one of them per batch"


def _epochs(images: Images, trainer: TrainerSettings) -> str:
    if images.count is None:
        return ""
    epochs = trainer.max_steps * trainer.batch_size / images.count
    return f" ({epochs:,.3g} epochs)"
