"""Weights of a vision transformer from published files: found by their names, and every name accounted for."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from einops import EinopsError
from torch import Tensor, nn

from imtok.distributed import launched_rank
from imtok.errors import InputError
from imtok.nn.big_vision import BIG_VISION, read_big_vision
from imtok.nn.vit import ViT
from imtok.nn.vit_names import LAYOUTS, WeightNames
from imtok.nn.vit_rows import patch_positions, rows_of
from imtok.weights import read_weights

log = logging.getLogger(__name__)

_ENTRIES = ("model_ema", "model", "module", "state_dict")  # where authors put the weights of a checkpoint
_MOST = 20  # names of one kind that a message lists
Parts = dict[str, Tensor]


def read_vit(net: ViT, path: Path, beyond: bool = False, whose: str = "") -> None:
    """Fill a net from a file of timm, of transformers or of the authors.

    Positions are resized to the net's grid, and patches to its side, as timm does it.

    Args:
        net: The net, with adapters or without.
        path: A file of safetensors or of torch, or an ``.npz`` of big_vision.
        beyond: The file's net may have more blocks than this one, and behind them a norm that this one does without.
        whose: The net's own name; "" = its shape is what a config says.

    Raises:
        InputError: If the file cannot be read, or a name of it has no place in the net, or a weight of the net is
            missing or has another shape in it: one line with the names, as they are in the file.
    """
    own = _parameters(net)
    with torch.no_grad():
        for name, value in VitFile(path, whose=whose).weights(net, beyond).items():
            own[name].copy_(value)


class VitFile:
    """A file with the weights of a vision transformer.

    Args:
        path: A file of safetensors or of torch, or an ``.npz`` of big_vision.
        tensors: What it holds; None = it is read.
        whose: See :func:`read_vit`.

    Raises:
        InputError: If the file cannot be read, or is of no layout that is known.
    """

    def __init__(self, path: Path, tensors: Parts | None = None, whose: str = "") -> None:
        self.path, self.whose = path, whose
        if tensors is not None:
            self.tensors, layouts = tensors, LAYOUTS
        elif path.suffix == ".npz":
            self.tensors, layouts = read_big_vision(path), (BIG_VISION,)
        else:
            self.tensors, layouts = dict(read_weights(path, None, entries=_ENTRIES).tensors), LAYOUTS
        found = [(layout, prefix) for layout in layouts if (prefix := layout.prefix(self.tensors)) is not None]
        if not found:
            held = ", ".join(list(self.tensors)[:4])
            raise InputError(
                f"{path} is no vision transformer as timm, transformers or the authors name its weights: it holds "
                f"{held}, ..."
            )
        self.layout: WeightNames = found[0][0]
        self.prefix: str = found[0][1]
        self.unknown = list[str]()

    def weights(self, net: ViT, beyond: bool = False) -> Parts:
        """The weights of a net, by their names in it; errors as of :func:`read_vit`."""
        parts, own, made, other = self.parts(net, beyond), _parameters(net), Parts(), list[str]()
        rows = rows_of(net)
        for row in rows:
            if not all(name in parts for name in row.sources):
                continue
            shape = own[row.target].shape
            try:
                made[row.target] = row.make(*(parts[name] for name in row.sources))
            except (ValueError, RuntimeError, IndexError, EinopsError):  # no shape of which one like it can be made
                made[row.target] = parts[row.sources[0]]
            if made[row.target].shape != shape:
                found = list(made[row.target].shape)
                other.append(f"{self.named(row.sources[0])} is for shape {found} and not {list(shape)}")
        wanted = list(dict.fromkeys(name for row in rows for name in row.sources))
        missing = [self.named(name) for name in wanted if name not in parts]
        unknown = self.unknown + [self.named(name) for name in parts if name not in wanted]
        self._require({"missing": missing, "unknown": unknown, "of another shape": other})
        self._say_sizes(net, parts)
        return made

    def parts(self, net: ViT, beyond: bool = False) -> Parts:
        """The tensors that are for a net, by our names, each cut out of what the file has joined."""
        found, self.unknown = Parts(), []
        for key, value in self.tensors.items():
            short = key.removeprefix(self.prefix) if key.startswith(self.prefix) else None
            name = self.layout.ours(short) if short is not None else None
            if name is not None and self._is_left_out(name, net, beyond):
                continue
            if name is not None and name not in found:
                found[name] = value.float() if value.is_floating_point() else value
            elif not (short and self.layout.reason(short, beside=False)) and not self.layout.reason(key, beside=True):
                self.unknown.append(key)
        return _as_wanted(net, dict(_cut(found, net.style.mlp.startswith("swiglu"))))

    def _is_left_out(self, name: str, net: ViT, beyond: bool) -> bool:
        """Whether the net was built without a part: patches of one that is given tokens, blocks behind its last."""
        if isinstance(net.patches, nn.Identity) and name.startswith("patches."):
            return True
        unused = name.startswith("norm.") and isinstance(net.norm, nn.Identity)
        return beyond and (unused or _block(name) >= len(net.trunk.blocks))

    def _require(self, kinds: Mapping[str, Sequence[str]]) -> None:
        """Raise InputError if there is something wrong of any kind."""
        problems = [_listed(what, list(dict.fromkeys(names))) for what, names in kinds.items() if names]
        if problems:
            shape = "its own patch_size, width, depth, heads, class_tokens, registers, table, norm_in and style, or "
            raise InputError(
                f"{self.path} (names of {self.layout.name}) is of another net than {self.whose or 'the config says'}: "
                f"{'; '.join(problems)}; give {'' if self.whose else shape}another file"
            )

    def _say_sizes(self, net: ViT, parts: Parts) -> None:
        """One line of the log, if patches or positions of the file are of other sizes than those of the net."""
        said = list[str]()
        if "patches.weight" in parts and (side := parts["patches.weight"].shape[-1]) != net.patch_size:
            said.append(f"patches from {side} to {net.patch_size} pixels")
        if net.positions is not None and len(rows := patch_positions(parts["positions"])) != net.grid[0] * net.grid[1]:
            side = int(len(rows) ** 0.5)
            said.append(f"positions from {side} x {side} to {net.grid[0]} x {net.grid[1]}")
        if said and launched_rank() == 0:
            log.info("%s: resized %s", self.path, ", ".join(said))

    def named(self, name: str) -> str:
        """The name that the file has, or ought to have, for a part."""
        joined = {"query": "qkv", "key": "qkv", "value": "qkv", "gate": "in", "up": "in"}
        block, _, rest = name.rpartition(".") if name.endswith((".weight", ".bias")) else ("", "", "")
        stem, _, leaf = block.rpartition(".")
        whole = f"{stem}.{joined.get(leaf, leaf)}.{rest}"
        short = [key.removeprefix(self.prefix) for key in self.tensors]
        theirs = self.layout.theirs(whole, short)
        used = {re.sub(r"\d+", "#", key) for key in short}
        if leaf not in joined or re.sub(r"\d+", "#", theirs) not in used:
            theirs = self.layout.theirs(name, short)
        return self.prefix + theirs


def _parameters(net: ViT) -> Parts:
    """By their names without adapters."""
    return {name.replace(".base_layer", ""): value for name, value in net.named_parameters()}


def _block(name: str) -> int:
    found = re.match(r"blocks\.(\d+)\.", name)
    return int(found[1]) if found else -1


def _cut(parts: Parts, gated: bool) -> Iterator[tuple[str, Tensor]]:
    """Query, key and value, and both maps of a gated network, each on its own."""
    for name, value in parts.items():
        if ".qkv." in name:
            yield from zip(
                (name.replace(".qkv.", f".{part}.") for part in ("query", "key", "value")), value.chunk(3), strict=False
            )
        elif gated and ".in." in name:
            yield from zip((name.replace(".in.", f".{part}.") for part in ("gate", "up")), value.chunk(2), strict=False)
        elif not gated and ".up." in name and name.replace(".up.", ".gate.") not in parts:
            yield name.replace(".up.", ".in."), value
        else:
            yield name, value


def _as_wanted(net: ViT, parts: Parts) -> Parts:
    """Keys' biases that are zero, or masked out, are none; and a file without queries' and values' has zeros."""
    if net.style.key_bias or not net.style.bias:
        return parts
    empty = {
        name for name, value in parts.items() if name.endswith(".key.bias") and not (value.nan_to_num() != 0).any()
    }
    kept = {name: value for name, value in parts.items() if name not in empty}
    if not any(name.endswith((".query.bias", ".value.bias")) for name in kept):
        for block in range(len(net.trunk.blocks)):
            for part in ("query", "value"):
                kept[f"blocks.{block}.{part}.bias"] = torch.zeros(net.width)
    return kept


def _listed(what: str, names: Sequence[str]) -> str:
    more = f", and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return f"{len(names)} {what}: {', '.join(names[:_MOST])}{more}"
