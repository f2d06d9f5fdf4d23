"""Checkpoints of Open-MAGVIT2 and of what was built on its nets: WeTok and SimVQ."""

from collections.abc import Sequence

from typing_extensions import override

from imtok.zoo.averages import averaged
from imtok.zoo.convolutions import ModuleNames, decoder_rules, encoder_rules, sizes
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.rules import Drop, Rename, Rule
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table, TableError

MAGVIT2 = ModuleNames("down", "up", "block", "downsample", "upsample.conv1", ("mid_block.*",))
_BITS = "encoder.conv_out.weight"
_BASIS = "quantize.embedding.weight"
_LONGEST = 20  # bits of one id
_GROUP_BITS = 8


class OpenMAGVIT2(CheckpointSource):
    """Open-MAGVIT2, with averaged weights; its codes are signs and have no weights."""

    name = "open_magvit2"
    title = "Open-MAGVIT2 of SEED-Voken (arXiv 2409.04410)"
    marks = ("encoder.down.*.block.", "encoder.mid_block.")
    foreign = ("quantize.embedding",)
    alike = "WeTok (source=wetok), whose codes have groups of bits"
    keys = ("groups",)
    codebook: Sequence[Rule] = ()
    frozen: tuple[str, ...] = ()

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        weights, dropped = averaged(checkpoint.tensors("state_dict"), frozen=self.frozen)
        return State(weights, dropped, kept=checkpoint.entry("state_dict"))

    @override
    def recipe(self, state: State) -> Sequence[str]:
        small = state.count("encoder.down.*.") == 4  # the 8 x 8 pixels per latent of the 128 px model
        net, side = ("cnn_magvit2_f8", 128) if small else ("cnn_magvit2", 256)
        bits = state.shape(_BITS)[0]
        if bits > _LONGEST:
            raise TableError(f"its codes have {bits} bits, as those of WeTok (source=wetok) and of BitDance have")
        quantizer = "lfq_18" if bits == 18 else "lfq_14"
        return [f"encoder={net}", f"quantizer={quantizer}", f"decoder={net}", f"image_size={side}"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        config = sizes(state, MAGVIT2, config)
        middle = ["residual"] * state.count("encoder.mid_block.*.")
        for part in ("encoder", "decoder"):
            config[part]["middle"] = middle
        return {**config, "quantizer": self.codes(state, config["quantizer"])}

    def codes(self, state: State, settings: Config) -> Config:
        """The quantizer's settings, as the weights have them."""
        bits = state.shape(_BITS)[0]
        return settings if bits == sum(settings["slot_bits"]) else {**settings, "slot_bits": [bits]}

    @override
    def table(self, config: Config) -> Table:
        nets = encoder_rules(MAGVIT2, config["encoder"]) + decoder_rules(MAGVIT2, config["decoder"])
        return Table([*nets, *self.codebook, Drop("loss.*", "loss")])


class WeTok(OpenMAGVIT2):
    """WeTok, also with the decoder that reads noise; averages where there are any (a frozen encoder has none)."""

    name = "wetok"
    title = "WeTok (arXiv 2508.05599)"
    alike = "Open-MAGVIT2 (source=open_magvit2), whose ids have 18 or 14 bits, and in BitDance's tokenizers"

    @override
    def recipe(self, state: State) -> Sequence[str]:
        bits, read = state.shape(_BITS)[0], state.shape("decoder.conv_in.weight")[1]
        return ["experiment=wetok_generative" if read == 2 * bits else "experiment=wetok"]

    @override
    def codes(self, state: State, settings: Config) -> Config:
        bits = state.shape(_BITS)[0]
        groups, rest = divmod(bits, _GROUP_BITS)
        if rest:
            raise TableError(
                f"its {bits} bits are no whole number of WeTok's groups of {_GROUP_BITS}; Open-MAGVIT2's codes have 18 "
                "or 14 (source=open_magvit2)"
            )
        state.assume(f"groups of {_GROUP_BITS} bits, as in the public nets")
        return {**settings, "groups": groups, "group_bits": _GROUP_BITS}


class SimVQ(OpenMAGVIT2):
    """SimVQ; averages where there are any. Its frozen codebook has none, and the linear map behind it has one."""

    name = "simvq"
    title = "SimVQ (arXiv 2411.02038)"
    marks = ("encoder.down.*.block.", "encoder.mid_block.", _BASIS, "quantize.embedding_proj.")
    foreign = ()
    alike = ""
    frozen = (_BASIS,)
    codebook = (Rename(_BASIS, "quantizer.basis"), Rename("quantize.embedding_proj", "quantizer.projection"))

    @override
    def recipe(self, state: State) -> Sequence[str]:
        return ["experiment=simvq"]

    @override
    def codes(self, state: State, settings: Config) -> Config:
        codes, dim = state.shape(_BASIS)
        return {**settings, "codebook_size": codes, "dim": dim}
