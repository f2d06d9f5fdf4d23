"""Checkpoints of ELM's binary autoencoder, whose code counts all modules of a net through in one list."""

from collections.abc import Sequence

from typing_extensions import override

from imtok.nn.convolution import level_layers
from imtok.zoo.blocks import named
from imtok.zoo.convolutions import COMPVIS
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.layouts import Rearrange
from imtok.zoo.rules import Drop, Rename, Rule
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table, TableError

_VECTORS = "quantize.embed.weight"
_NET = {"encoder": "encoder", "decoder": "generator"}
_RESIDUAL = {name: name for name in ("norm1", "conv1", "norm2", "conv2")}
_WHOLE = 16  # bits at most that its generators read as one code; of more they read two
_MIDDLE = ("residual", "attention", "residual")
# Modules before and after the levels of a net; the middle, of three, is the encoder's end and the decoder's beginning.
_AROUND = {"encoder": (1, 5), "decoder": (5, 2)}


class ELM(CheckpointSource):
    """ELM's binary autoencoders: averages in ``binaryae_ema.th``, of which only names that begin with ``ae.`` count."""

    name = "elm"
    title = "ELM's binary autoencoder (arXiv 2410.16257)"
    marks = ("encoder.blocks.*.norm1.weight", "generator.blocks.*.proj_out.weight", _VECTORS)
    keys = ("groups", "slots")

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        tensors = checkpoint.tensors()
        own = {name.removeprefix("ae."): value for name, value in tensors.items() if name.startswith("ae.")}
        other = dict.fromkeys(tensors.keys() - {f"ae.{name}" for name in own}, "not read by the public code")
        return State(own, other) if own else State(tensors)

    @override
    def recipe(self, state: State) -> Sequence[str]:
        return ["experiment=elm"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        if len(state.shape("generator.blocks.0.weight")) != 1:
            raise TableError("generator.blocks.0 is no norm, with which the published decoders begin (norm_first)")
        bits, latent = state.shape(_VECTORS)
        levels = _levels(state, "encoder")
        channels = state.shape("encoder.blocks.0.weight")[0]
        widths = [state.shape(f"{level[0]}.conv2.weight")[0] for level in levels]
        common = {"channels": channels, "multipliers": [width // channels for width in widths]}
        common |= {"latent_channels": latent, **state.groups([channels, *widths, latent], "convolutions")}
        state.assume("bits are 0 and 1, as published (without use_tanh)")
        encoder, decoder = (_attention(state, part) for part in _NET)
        return {
            **config,
            "encoder": {**config["encoder"], **common, **encoder},
            "quantizer": {**config["quantizer"], "slot_bits": _slots(state, bits)},
            "decoder": {**config["decoder"], **common, **decoder},
        }

    @override
    def table(self, config: Config) -> Table:
        rules: list[Rule] = [
            Rename("quantize.proj.0", "encoder.project"),
            Rearrange(_VECTORS, "decoder.project.0.weight", "n d", "d n 1 1"),
            Drop("generator.logsigma.*", "spread of pixels, for a likelihood"),
        ]
        for part in _NET:
            rules += _net(part, config[part])
        return Table(rules)


def _slots(state: State, bits: int) -> list[int]:
    """Bits of each sub-code: as many of equal length as the user says, or as the public generators read."""
    given = state.given.get("slots")
    number = given or (1 if bits <= _WHOLE else 2)
    if bits % number:
        raise TableError(f"{number} sub-codes do not divide {bits} bits; give slots=NUMBER")
    if given is None:
        codes = f"{number} sub-code{'s' * (number > 1)} of {bits // number} bits"
        state.assume(f"{codes}, as its generators read them (slots=NUMBER)")
    return [bits // number] * number


def _levels(state: State, part: str) -> list[list[str]]:
    """The modules of each level, which are separated by what changes the resolution, in the order of the net."""
    net, (before, after) = _NET[part], _AROUND[part]
    levels: list[list[str]] = [[]]
    for place in range(before, state.count(f"{net}.blocks.*.") - after):
        name = f"{net}.blocks.{place}"
        if f"{name}.conv.weight" in state.tensors:
            levels.append([])
        else:
            levels[-1].append(name)
    if not all(levels):
        raise TableError(f"a level of {net}.blocks has no residual blocks")
    return levels


def _attention(state: State, part: str) -> Config:
    """Residual blocks of a part, and the levels that have attention, by the keys that are there."""
    levels = _levels(state, part)
    attended = [[name for name in level if f"{name}.q.weight" in state.tensors] for level in levels]
    found = [place for place, names in enumerate(attended if part == "encoder" else attended[::-1]) if names]
    kind = "none" if not found else "lowest" if found == [len(levels) - 1] else found
    return {"blocks": len(levels[0]) - len(attended[0]), "attention": kind}


def _net(part: str, settings: Config) -> list[Rule]:
    """Rules of a net: its modules in order, each of which has the next number."""
    multipliers = settings["multipliers"] if part == "encoder" else settings["multipliers"][::-1]
    layers = level_layers(len(multipliers), settings["blocks"], settings["attention"])
    middle = [(f"middle.{place}", layer, False) for place, layer in enumerate(_MIDDLE)]
    modules = (
        [("conv_in", "", False)] if part == "encoder" else [("project.1", "", False), ("conv_in", "", False), *middle]
    )
    incoming = multipliers[0] if part == "decoder" else 1
    for level, width in enumerate(multipliers):
        if level > 0:
            resampler = f"downsamplers.{level - 1}.1" if part == "encoder" else f"upsamplers.{level - 1}.conv"
            modules.append((resampler, "resampler", False))
        for place, layer in enumerate(layers[level if part == "encoder" else -1 - level]):
            modules.append((f"levels.{level}.{place}", layer, place == 0 and width != incoming))
        incoming = width
    modules += [*middle, ("norm_out", "", False)] if part == "encoder" else [("norm_out", "", False)]
    rules: list[Rule] = []
    for number, (name, layer, widens) in enumerate([*modules, ("conv_out", "", False)]):
        source, target = f"{_NET[part]}.blocks.{number}", f"{part}.{name}"
        if layer == "residual":
            rules += named(_RESIDUAL, source, target)
            shortcut = f"{source}.conv_out"
            rules.append(Rename(shortcut, f"{target}.shortcut") if widens else Drop(f"{shortcut}.*", "unused shortcut"))
        elif layer == "attention":
            rules += named(COMPVIS.attention, source, target)
        else:
            rules.append(Rename(f"{source}.conv" if layer else source, target))
    return rules
