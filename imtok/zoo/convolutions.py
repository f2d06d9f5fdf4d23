"""Rules of what convolutional nets of the VQGAN line share, whatever their codes call the modules."""

from collections.abc import Sequence
from dataclasses import dataclass

from imtok.nn.convolution import Attention, attended_levels
from imtok.zoo.blocks import named
from imtok.zoo.layouts import Rearrange, Split
from imtok.zoo.rules import Rename, Rule
from imtok.zoo.source import Config, State


@dataclass(frozen=True)
class Modules:
    """What a code calls the modules inside its blocks, each with the name in imtok.

    Attributes:
        residual: Of a residual block.
        attention: Of attention.
        ends: Of a net, apart from its levels and its middle.
        attentions: What a level calls its attention blocks.
        linear: Whether the maps of attention are linear ones; elsewhere they are 1 x 1 convolutions.
    """

    residual: dict[str, str]
    attention: dict[str, str]
    ends: dict[str, str]
    attentions: str = "attn"
    linear: bool = False


_RESIDUAL = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2"}
COMPVIS = Modules(
    _RESIDUAL | {"nin_shortcut": "shortcut"},
    {"norm": "norm", "q": "query", "k": "key", "v": "value", "proj_out": "project"},
    {"conv_in": "conv_in", "norm_out": "norm_out.0", "conv_out": "conv_out"},
)
DIFFUSERS = Modules(
    _RESIDUAL | {"conv_shortcut": "shortcut"},
    {"group_norm": "norm", "to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "project"},
    {"conv_in": "conv_in", "conv_norm_out": "norm_out.0", "conv_out": "conv_out"},
    attentions="attentions",
    linear=True,
)


@dataclass(frozen=True)
class ModuleNames:
    """What a code calls the modules of its two nets; ``{level}`` is 0 at full resolution.

    Attributes:
        encoder_level: A level of the encoder.
        decoder_level: A level of the decoder.
        block: A residual block in a level.
        halve: What lowers the resolution, in a level of the encoder; empty = nothing that has weights.
        double: What raises it, in a level of the decoder.
        middle: The modules at the lowest resolution, in order; ``*`` = any number of them.
        lowest_first: Whether the decoder's levels are counted from the lowest resolution.
        fused: Whether one convolution of attention writes queries, keys and values.
        modules: What it calls the modules inside these.
    """

    encoder_level: str
    decoder_level: str
    block: str
    halve: str
    double: str
    middle: tuple[str, ...]
    lowest_first: bool = False
    fused: bool = False
    modules: Modules = COMPVIS


def sizes(
    state: State,
    layout: ModuleNames,
    config: Config,
    encoder: str = "encoder",
    decoder: str = "decoder",
    last: str = "conv_out",
) -> Config:
    """The sections ``encoder`` and ``decoder`` of ``config`` with channels, levels and blocks as the weights have them.

    Args:
        state: The weights.
        layout: How their code names them.
        config: The published settings.
        encoder: What the code calls its convolutional encoder.
        decoder: What it calls its convolutional decoder.
        last: What it calls the last convolution of the encoder.
    """
    channels = {
        "encoder": state.shape(f"{encoder}.conv_in.weight")[0],
        "decoder": state.shape(f"{decoder}.conv_out.weight")[1],
    }
    levels = {"encoder": f"{encoder}.{layout.encoder_level}", "decoder": f"{decoder}.{layout.decoder_level}"}
    widths = {part: _widths(state, level, layout, part) for part, level in levels.items()}
    common = state.groups([width for part in widths for width in (channels[part], *widths[part])], "convolutions")
    if config["encoder"].get("latent_channels") is not None:
        common["latent_channels"] = state.shape(f"{encoder}.{last}.weight")[0]
    parts: dict[str, Config] = {}
    for part, level in levels.items():
        parts[part] = {
            **common,
            "channels": channels[part],
            "multipliers": [width // channels[part] for width in widths[part]],
            "blocks": state.count(f"{level}.0.{layout.block}.*."),
        }
        if "attention" in config[part]:
            parts[part]["attention"] = _attention(state, level, len(widths[part]), part, layout)
    return {**config, **{part: {**config[part], **found} for part, found in parts.items()}}


def _widths(state: State, level: str, layout: ModuleNames, part: str) -> list[int]:
    """Channels of each level, full resolution first."""
    number = state.count(f"{level}.*.")
    found = [state.shape(f"{level}.{index}.{layout.block}.0.conv2.weight")[0] for index in range(number)]
    return found[::-1] if part == "decoder" and layout.lowest_first else found


def _attention(state: State, level: str, levels: int, part: str, layout: ModuleNames) -> Attention:
    """Where attention follows every residual block, by the keys that are there."""
    norm = f"{layout.modules.attentions}.0.{next(iter(layout.modules.attention))}.weight"
    found = {index for index in range(levels) if f"{level}.{index}.{norm}" in state.tensors}
    if part == "decoder" and layout.lowest_first:
        found = {levels - 1 - index for index in found}
    if not found:
        return "none"
    return "lowest" if found == {levels - 1} else sorted(found)


def encoder_rules(
    layout: ModuleNames, settings: Config, source: str = "encoder", target: str = "encoder"
) -> list[Rule]:
    """What becomes of the keys of a convolutional encoder.

    Args:
        layout: How its code names them.
        settings: The arguments of :class:`imtok.encoders.cnn.CNNEncoder`.
        source: The name of the net in its code.
        target: Its name in imtok.
    """
    rules = named(layout.modules.ends, source, target)
    levels = len(settings["multipliers"])
    for level in range(levels):
        attention = level in attended_levels(levels, settings["attention"])
        place = f"{source}.{layout.encoder_level}.{level}"
        rules += _level(layout, place, f"{target}.levels.{level}", settings["blocks"], attention)
        if layout.halve and level < levels - 1:
            inner = ".1" if settings["downsample"] == "padded_end" else ""
            rules.append(Rename(f"{place}.{layout.halve}", f"{target}.downsamplers.{level}{inner}"))
    return rules + _middle(layout, source, target, settings["middle"])


def decoder_rules(
    layout: ModuleNames, settings: Config, source: str = "decoder", target: str = "decoder"
) -> list[Rule]:
    """What becomes of the keys of a convolutional decoder; arguments as :func:`encoder_rules`."""
    rules = named(layout.modules.ends, source, target)
    levels = len(settings["multipliers"])
    for level in range(levels):
        attention = levels - 1 - level in attended_levels(levels, settings["attention"])
        number = level if layout.lowest_first else levels - 1 - level
        place = f"{source}.{layout.decoder_level}.{number}"
        rules += _level(layout, place, f"{target}.levels.{level}", settings["blocks"], attention)
        if level < levels - 1:
            rules.append(Rename(f"{place}.{layout.double}", f"{target}.upsamplers.{level}.conv"))
        if settings["adaptive_norm"] == "levels":
            names = {"gamma": "scale", "beta": "bias"}
            rules += named(names, f"{source}.adaptive.{number}", f"{target}.adaptive_norms.{level}")
    return rules + _middle(layout, source, target, settings["middle"])


def _level(layout: ModuleNames, source: str, target: str, blocks: int, attention: bool) -> list[Rule]:
    rules: list[Rule] = []
    for block in range(blocks):
        place = block * (2 if attention else 1)
        rules += named(layout.modules.residual, f"{source}.{layout.block}.{block}", f"{target}.{place}")
        if attention:
            rules += _attention_rules(layout, f"{source}.{layout.modules.attentions}.{block}", f"{target}.{place + 1}")
    return rules


def _attention_rules(layout: ModuleNames, source: str, target: str) -> list[Rule]:
    if layout.fused:
        parts = [f"{target}.{part}" for part in ("query", "key", "value")]
        fused = [
            Split(f"{source}.qkv.{kind}", tuple(f"{part}.{kind}" for part in parts)) for kind in ("weight", "bias")
        ]
        return [*named({"norm": "norm", "proj_out": "project"}, source, target), *fused]
    names = layout.modules.attention
    if not layout.modules.linear:
        return named(names, source, target)
    rules: list[Rule] = []
    for old, new in names.items():
        if new == "norm":
            rules += named({old: new}, source, target)
        else:
            rules.append(Rearrange(f"{source}.{old}.weight", f"{target}.{new}.weight", "o i", "o i 1 1"))
            rules.append(Rename(f"{source}.{old}.bias", f"{target}.{new}.bias"))
    return rules


def _middle(layout: ModuleNames, source: str, target: str, layers: Sequence[str]) -> list[Rule]:
    rules: list[Rule] = []
    for index, layer in enumerate(layers):
        name = layout.middle[0].replace("*", str(index)) if len(layout.middle) == 1 else layout.middle[index]
        old, new = f"{source}.{name}", f"{target}.middle.{index}"
        rules += named(layout.modules.residual, old, new) if layer == "residual" else _attention_rules(layout, old, new)
    return rules
