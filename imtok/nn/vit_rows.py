"""Of which tensors of a published file each weight of :class:`imtok.nn.vit.ViT` is made."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from imtok.nn.vit import ViT
from imtok.nn.vit_resize import resize_patches, resize_positions


@dataclass(frozen=True)
class WeightRow:
    """One weight of the net.

    Attributes:
        target: Its name.
        sources: Names of what it is made of, as :mod:`imtok.nn.vit_names` has them on its right.
        make: Makes it of these.
    """

    target: str
    sources: tuple[str, ...]
    make: Callable[..., Tensor]


def rows_of(net: ViT) -> list[WeightRow]:
    """A row for every weight of a net; adapters have none."""
    return [*_before(net), *(row for block in range(len(net.trunk.blocks)) for row in _block(net, block))]


def _before(net: ViT) -> Iterator[WeightRow]:
    if net.class_token is not None:
        yield WeightRow("class_token", ("class_token",), _vectors)
    if net.class_position is not None:
        yield WeightRow("class_position", ("positions",), lambda table: _table(table)[0])
    if net.registers is not None:
        yield WeightRow("registers", ("registers",), _vectors)
    if net.positions is not None:
        yield WeightRow("positions.table", ("positions",), lambda table: resize_positions(_table(table)[1], net.grid))
    for kind, _ in net.patches.named_parameters():
        if kind == "bias":
            yield _same("patches.bias", "patches.bias")
        else:
            yield WeightRow("patches.weight", ("patches.weight",), lambda kernel: _kernel(kernel, net.patch_size))
    for norm in ("norm_in", "norm"):
        for kind, _ in net.get_submodule(norm).named_parameters():
            yield _same(f"{norm}.{kind}", f"{norm}.{kind}")


def _block(net: ViT, index: int) -> Iterator[WeightRow]:
    target, source, style = f"trunk.blocks.{index}", f"blocks.{index}", net.style

    def turned(part: Tensor) -> Tensor:
        """Channels that DINOv3 turns together stand half a head apart there, and side by side here."""
        return (
            rearrange(part, "(k half c) ... -> (k c half) ...", k=net.heads, half=2) if net.rotary == "dinov3" else part
        )

    def joined(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return torch.cat([turned(query), turned(key), value])

    def biases(query: Tensor, value: Tensor) -> Tensor:
        return torch.stack([turned(query), value])

    # Linear layers: attention and MLP.
    for kind in ("weight", "bias") if style.bias else ("weight",):
        maps = {"attention.project": "project"}
        if style.mlp.startswith("swiglu"):
            maps |= {"mlp.gate": "gate", "mlp.value": "up", "mlp.out": "out"}
        else:
            maps |= {"mlp.0": "in", "mlp.2": "out"}
        yield from (_same(f"{target}.{ours}.{kind}", f"{source}.{theirs}.{kind}") for ours, theirs in maps.items())
        if kind == "weight" or style.key_bias:
            parts = (f"{source}.query.{kind}", f"{source}.key.{kind}", f"{source}.value.{kind}")
            yield WeightRow(f"{target}.attention.query_key_value.{kind}", parts, joined)
        else:
            parts = (f"{source}.query.bias", f"{source}.value.bias")
            yield WeightRow(f"{target}.attention.query_value_bias", parts, biases)
    # Norms and scales.
    for kind in ("weight", "bias"):
        for norm in ("norm1", "norm2"):
            yield _same(f"{target}.{norm}.{kind}", f"{source}.{norm}.{kind}")
        if style.mlp == "swiglu_norm":
            yield _same(f"{target}.mlp.norm.{kind}", f"{source}.between.{kind}")
    if style.layer_scale:
        for scale in ("scale1", "scale2"):
            yield _same(f"{target}.{scale}.scale", f"{source}.{scale}")


def _same(target: str, source: str) -> WeightRow:
    return WeightRow(target, (source,), lambda value: value)


def patch_positions(value: Tensor) -> Tensor:
    """Positions of the patches alone, as the file has them."""
    return _table(value)[1]


def _kernel(value: Tensor, side: int) -> Tensor:
    if value.ndim != 4 or value.shape[-2] != value.shape[-1]:
        raise ValueError(f"patches must be squares of pixels, got {list(value.shape)}")
    return resize_patches(value, side)


def _vectors(value: Tensor) -> Tensor:
    return value.reshape(-1, value.shape[-1])


def _table(value: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the class token, and of the patches; timm's copies with registers have the first added already."""
    rows = _vectors(value)
    for first in (0, 1):
        if int((len(rows) - first) ** 0.5) ** 2 == len(rows) - first:
            return (rows[:1] if first else torch.zeros_like(rows[:1])), rows[first:]
    raise ValueError(f"positions must be those of a square grid, got {len(rows)}")
