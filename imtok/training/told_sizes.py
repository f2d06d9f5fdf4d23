"""What an objective is told of the tokenizer, so that no width is written twice in a config."""

import copy
import inspect
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from imtok.conditions.base import example_caption
from imtok.construct import import_path
from imtok.critics.base import Critic
from imtok.decoders.base import GenerativeDecoder
from imtok.errors import InputError, MissingWeightsError
from imtok.losses.alignment.base import AlignmentLoss
from imtok.losses.base import ImageLoss
from imtok.losses.prior.base import PriorLoss
from imtok.nn.taps import tapped
from imtok.objectives.base import Objective
from imtok.tokenizer import Tokenizer
from imtok.training.rehearsal import RealDraws

log = logging.getLogger(__name__)

# Arguments by these names, of these classes.
TOLD = ("dim", "vocab_sizes", "num_latents", "image_size", "image_channels")
LISTENERS = (Objective, AlignmentLoss, ImageLoss, PriorLoss, Critic)


def tell_sizes(section: dict[str, Any], tokenizer: Tokenizer, side: int) -> None:
    """Fill in the sizes that a section ``objective`` leaves out.

    An objective, an alignment, a prior, a loss or a critic is told ``dim`` (width of a latent), ``vocab_sizes``,
    ``num_latents``, ``image_size`` and ``image_channels`` where its class takes arguments by these names. The ``head``
    of an alignment is told ``in_dim``, the width of the part of the tokenizer that the alignment looks at
    (``source``), and ``out_dim``, that of its teacher's features; a ``teacher_head`` is told the same from the other
    side.

    Args:
        section: Plain values, which are changed.
        tokenizer: What is trained.
        side: Side of the images, in pixels.

    Raises:
        InputError: If an alignment looks at a part that is not there, or a width is not to be found.
    """
    known = {
        "dim": tokenizer.quantizer.dim,
        "vocab_sizes": list(tokenizer.quantizer.vocab_sizes),
        "num_latents": tokenizer.encoder.num_latents((side, side)),
        "image_size": side,
        **({} if tokenizer.channels == 3 else {"image_channels": tokenizer.channels}),
    }
    alignments = list[_Heads]()
    for path, node in _nodes(section, "objective"):
        found = named_class(node)
        if found is None or not issubclass(found, LISTENERS):
            continue
        taken = inspect.signature(found).parameters
        node |= {name: value for name, value in known.items() if name in taken and name not in node}
        alignments.append(_Heads(path, node, {key: one.default for key, one in taken.items()}))
    looking = [one for one in alignments if one.asks_source]
    widths = _widths(tokenizer, side, {one.path: one.source for one in looking})
    for one in looking:
        one.tell_source(widths[one.source])
    for one in alignments:
        one.tell_teacher()


class _Heads:
    """The two heads of an alignment between what it looks at and its teacher, as sections of the config.

    Args:
        path: Of the alignment in the config.
        node: Its section, which is changed.
        defaults: Of the arguments of its class.
    """

    def __init__(self, path: str, node: dict[str, Any], defaults: dict[str, Any]) -> None:
        self.path, self.node = path, node
        source = node.get("source", defaults.get("source"))
        self.source = source if isinstance(source, str) else ""
        self.summary = node.get("feature", defaults.get("feature")) == "summary"
        self.head, self.teacher_head = self._head("head"), self._head("teacher_head")
        # what lies next to the source, and what next to the teacher
        self.near = (self.head, "in_dim") if self.head is not None else (self.teacher_head, "out_dim")
        self.far = (self.teacher_head, "in_dim") if self.teacher_head is not None else (self.head, "out_dim")

    def _head(self, name: str) -> dict[str, Any] | None:
        section = self.node.get(name)
        return section if isinstance(section, dict) and "_target_" in section else None

    @property
    def asks_source(self) -> bool:
        """Whether a head wants the width of what the alignment looks at."""
        return bool(self.source) and _wants(*self.near)

    def tell_source(self, width: int) -> None:
        """Tell the head next to the source."""
        section, name = self.near
        channels = self.node.get("channels")
        if channels and not channels[0] < channels[1] <= width:
            raise InputError(
                f"{self.path}.channels must be a first and a last channel of the {width} of {self.source}, got "
                f"{list(channels)}; give {self.path}.channels=null for all, or ~{self.path}"
            )
        if section is not None:
            section[name] = channels[1] - channels[0] if channels else width

    def tell_teacher(self) -> None:
        """Tell the head next to the teacher, and the other one what this one gives."""
        section, name = self.far
        if section is not None and _wants(section, name):
            self._tell_far(section, name)
        if self.teacher_head is not None and self.head is not None and _wants(self.head, "out_dim"):
            self.head["out_dim"] = self.teacher_head.get("out_dim")

    def _tell_far(self, section: dict[str, Any], name: str) -> None:
        teacher = self.node.get("teacher")
        found = named_class(teacher) if isinstance(teacher, dict) and "_target_" in teacher else None
        if not isinstance(teacher, dict) or found is None or not hasattr(found, "widths"):
            if _arguments(section)[name].default is inspect.Parameter.empty:
                key = f"{self.path}.{'head' if section is self.head else 'teacher_head'}.{name}"
                raise InputError(f"{key}: the width of its teacher is not to be found; give +{key}=NUMBER")
            return
        taken = inspect.signature(found.widths).parameters
        try:
            widths = found.widths(**{key: value for key, value in teacher.items() if key in taken})
        except MissingWeightsError:  # as the teacher says, too, which is built before its heads
            self.node |= {key: self.node.pop(key) for key in ("head", "teacher_head") if key in self.node}
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.path}.teacher: {error}") from None
        else:
            section[name] = widths.summary if self.summary else widths.patches


def named_class(node: dict[str, Any]) -> type | None:
    """The class that ``_target_`` of a node names; None if there is none, which is refused elsewhere, by name."""
    try:
        found = import_path(node["_target_"])
    except Exception:  # importing can raise anything
        return None
    return found if isinstance(found, type) else None


def _wants(section: dict[str, Any] | None, name: str) -> bool:
    """Whether a head takes a width that the config leaves out."""
    return section is not None and section.get(name) is None and name in _arguments(section)


def _arguments(section: dict[str, Any]) -> dict[str, inspect.Parameter]:
    """What the class of a section takes."""
    found = named_class(section)
    return {} if found is None else dict(inspect.signature(found).parameters)


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
    found = {"encoder": tokenizer.quantizer.in_dim, "quantizer": tokenizer.quantizer.dim}
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
        condition = tokenizer.condition_for(2, [example_caption(tokenizer.condition)] * 2)
        outputs: dict[str, Any] = {}
        try:
            with FakeCopyMode(mode):
                net = copy.deepcopy(tokenizer).train()
            with mode, RealDraws(), tapped(net, names) as outputs:
                image = torch.zeros(2, tokenizer.channels, side, side)
                quantized = net.quantize(image, condition=condition)
                if isinstance(net.decoder, GenerativeDecoder):
                    drawn = torch.Generator().manual_seed(0)
                    net.decoder.loss(image, quantized.latents, quantized.keep, condition, drawn)
                else:
                    net.decoder(quantized.latents, (side, side), quantized.keep, condition)
        except Exception as error:  # parts that do not fit are refused by the rehearsal, which knows their keys
            log.debug("not followed by shapes: %s", error)
        return {name: tuple(value.shape) for name, value in outputs.items()}
