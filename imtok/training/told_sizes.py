"""What an objective is told of the tokenizer, so that no width is written twice in a config."""

import copy
import inspect
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from imtok.construct import import_path
from imtok.decoders.base import GenerativeDecoder
from imtok.errors import InputError
from imtok.losses.alignment.base import AlignmentLoss
from imtok.losses.base import ImageLoss
from imtok.nn.taps import tapped
from imtok.objectives.base import Objective
from imtok.tokenizer import Tokenizer
from imtok.training.rehearsal import Draws

log = logging.getLogger(__name__)

TOLD = ("dim", "vocab_sizes", "num_latents", "image_size")  # arguments by these names, of these classes
LISTENERS = (Objective, AlignmentLoss, ImageLoss)
_LATENTS: tuple[str, ...] = ("encoder", "quantizer")


def tell_sizes(section: dict[str, Any], tokenizer: Tokenizer, side: int) -> None:
    """Fill in the sizes that a section ``objective`` leaves out.

    An objective, an alignment or a loss is told ``dim`` (width of a latent), ``vocab_sizes``, ``num_latents`` and
    ``image_size`` where its class takes arguments by these names. The ``head`` of an alignment is told ``in_dim``, the
    width of the part of the tokenizer that the alignment looks at (``source``).

    Args:
        section: Plain values, which are changed.
        tokenizer: What is trained.
        side: Side of the images, in pixels.

    Raises:
        InputError: If an alignment looks at a part that is not there, or whose width is not to be found.
    """
    known = {
        "dim": tokenizer.quantizer.dim,
        "vocab_sizes": list(tokenizer.quantizer.vocab_sizes),
        "num_latents": tokenizer.encoder.num_latents((side, side)),
        "image_size": side,
    }
    wanted: dict[str, tuple[dict[str, Any], str, Any]] = {}  # heads by their keys, with source and channels
    for path, node in _nodes(section, "objective"):
        found = named_class(node)
        if found is None or not issubclass(found, LISTENERS):
            continue
        taken = inspect.signature(found).parameters
        node |= {name: value for name, value in known.items() if name in taken and name not in node}
        head, source = node.get("head"), node.get("source", getattr(taken.get("source"), "default", None))
        if isinstance(source, str) and isinstance(head, dict) and _wants_width(head):
            wanted[path] = (head, source, node.get("channels"))
    widths = _widths(tokenizer, side, {path: source for path, (_, source, _) in wanted.items()})
    for head, source, channels in wanted.values():
        whole = widths[source]
        head["in_dim"] = min(channels[1], whole) - channels[0] if channels else whole


def named_class(node: dict[str, Any]) -> type | None:
    """The class that ``_target_`` of a node names; None if there is none, which is refused elsewhere, by name."""
    try:
        found = import_path(node["_target_"])
    except Exception:  # importing can raise anything
        return None
    return found if isinstance(found, type) else None


def _wants_width(head: dict[str, Any]) -> bool:
    if "_target_" not in head or head.get("in_dim") is not None:
        return False
    found = named_class(head)
    return found is not None and "in_dim" in inspect.signature(found).parameters


def _nodes(node: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every dict with ``_target_``, however deep, with its key."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in list(node.items()):
            yield from _nodes(value, f"{path}.{key}")


def _widths(tokenizer: Tokenizer, side: int, sources: dict[str, str]) -> dict[str, int]:
    """The width of what parts of the tokenizer give, by shapes alone.

    Args:
        tokenizer: Of which a copy is tried.
        side: Side of the images, in pixels.
        sources: Names of the parts, by the key of who asks.
    """
    found = dict.fromkeys(_LATENTS, tokenizer.quantizer.dim)
    parts = dict(tokenizer.named_modules())
    for path, source in sources.items():
        if source not in parts:
            raise InputError(f"{path}.source must name a part of the tokenizer, got {source}")
    asked = [source for source in dict.fromkeys(sources.values()) if source not in found]
    shapes = _shapes(tokenizer, side, asked) if asked else {}
    for path, source in sources.items():
        shape = shapes.get(source, ())
        if len(shape) in (3, 4):
            found[source] = shape[2 if len(shape) == 3 else 1]  # tokens b n d, or a map b d h w
        if source not in found:
            key = f"{path}.head.in_dim"
            raise InputError(f"{key}: the width of {source} is not to be found by shapes alone; give +{key}=NUMBER")
    return found


def _shapes(tokenizer: Tokenizer, side: int, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of what parts give in a step of training; no values are computed, and no random state moves."""
    with torch.random.fork_rng(devices=[]):
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        condition = tokenizer.condition_for(2, ["a picture"] * 2)
        outputs: dict[str, Any] = {}
        try:
            with FakeCopyMode(mode):
                net = copy.deepcopy(tokenizer).train()
            with mode, Draws(), tapped(net, names) as outputs:
                image = torch.zeros(2, 3, side, side)
                quantized = net.quantize(image, condition=condition)
                if isinstance(net.decoder, GenerativeDecoder):
                    drawn = torch.Generator().manual_seed(0)
                    net.decoder.loss(image, quantized.latents, quantized.keep, condition, drawn)
                else:
                    net.decoder(quantized.latents, (side, side), quantized.keep, condition)
        except Exception as error:  # parts that do not fit are refused by the rehearsal, which knows their keys
            log.debug("not followed by shapes: %s", error)
        return {name: tuple(value.shape) for name, value in outputs.items()}
