"""What quantizers made of quantizers share: merged losses, statistics by part, slots by part."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from einops import rearrange
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from imtok.quantizers.base import Quantizer
from imtok.quantizers.statistics import merge_stats
from imtok.types import Loss


def merge_losses(parts: Sequence[dict[str, Loss]], factor: float = 1.0) -> dict[str, Loss]:
    """One term per name, whose contribution to the total is the parts' together, times ``factor``.

    The value is the mean of the parts' values by their weights, so that it stays a textbook quantity and keeps the
    name by which an objective may schedule it. Terms of weight zero are left out.

    Args:
        parts: The losses of each part.
        factor: 1 adds the parts up, ``1 / len(parts)`` averages them.
    """
    merged: dict[str, Loss] = {}
    for name in dict.fromkeys(name for losses in parts for name in losses):
        terms = [losses[name] for losses in parts if name in losses and losses[name].weight]
        if terms:
            total = sum(weight for _, weight in terms)
            value = torch.stack([value * (weight / total) for value, weight in terms]).sum()
            merged[name] = Loss(value, total * factor)
    return merged


def branch_losses(parts: Sequence[dict[str, Loss]]) -> dict[str, Loss]:
    """The losses of each part for the log alone, without gradient: ``commit_0`` is that of the first part.

    Args:
        parts: The losses of each part.
    """
    return {
        f"{name}_{index}": Loss(loss.value.detach(), 0.0)
        for index, losses in enumerate(parts)
        for name, loss in losses.items()
        if loss.weight
    }


def add_stats(total: dict[str, Tensor], part: int, stats: dict[str, Tensor]) -> None:
    """Add a part's statistics to ``total``, under names that :func:`stats_of` finds; a part may come several times."""
    merge_stats(total, stats, f"{part}.")


def stats_of(part: int, stats: dict[str, Tensor]) -> dict[str, Tensor]:
    """The statistics of one part, under its own names."""
    prefix = f"{part}."
    return {name.removeprefix(prefix): value for name, value in stats.items() if name.startswith(prefix)}


def slot_ranges(parts: Sequence[Quantizer]) -> list[slice]:
    """The slots of each part where the slots of all stand side by side."""
    ends = list(accumulate(len(part.vocab_sizes) for part in parts))
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def decode_part(
    part: Quantizer, ids: Int64[Tensor, "b t g"], slots: slice, first: int | None
) -> Float[Tensor, "b n d"]:
    """What the ids in ``slots`` stand for, if only the ``first`` slots of all parts count.

    Args:
        part: Whose ids they are.
        ids: Of all parts.
        slots: The part's own among them.
        first: How many slots of all parts count; None = all.
    """
    own = ids[..., slots]
    if first is None or first >= slots.stop:
        return part.look_up(own)
    if first <= slots.start:
        return torch.zeros_like(part.look_up(own))
    return part.look_up(own, slots=first - slots.start)


def check_parts(parts: Sequence[Quantizer], ids: Shaped[Tensor, "b t g"], first: int | None) -> None:
    """Let each part refuse what it would not take for ids of its own, among the ``first`` slots of all parts.

    Args:
        parts: Side by side in slots.
        ids: Of all parts.
        first: How many slots of all parts count; None = all.
    """
    for part, slots in zip(parts, slot_ranges(parts), strict=True):
        own = ids[..., slots]
        if first is None or first > slots.start:
            part.check_ids(own, None if first is None else first - slots.start)


def require_own_width(parts: Sequence[Quantizer], name: str) -> None:
    """Refuse quantizers that take more channels than they give: what is left of a latent has no others.

    Args:
        parts: The quantizers.
        name: What the config calls them.

    Raises:
        ValueError: That names the class of the first.
    """
    for part in parts:
        if part.in_dim != part.dim:
            raise ValueError(f"{name} must take latents as wide as their codes, got {type(part).__name__}")


def as_images(latents: Float[Tensor, "m d"], length: int | None) -> Float[Tensor, "b n d"]:
    """Rows as the images that they came from, or as a single one where any length will do."""
    return rearrange(latents, "(b n) d -> b n d", n=length or latents.shape[0])
