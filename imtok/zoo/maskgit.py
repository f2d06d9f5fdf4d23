"""Checkpoints of MaskGIT's tokenizer, of MaskBit's and of VQGAN+, and the rules of their nets.

Files of TiTok and TokenSet hold MaskGIT's decoder, too.
"""

from collections.abc import Sequence

from typing_extensions import override

from imtok.quantizers.signs import LARGEST_SLOT
from imtok.zoo.cnn import CODEBOOK, VQ_STATE
from imtok.zoo.convolutions import ModuleNames, decoder_rules, encoder_rules, sizes
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.rules import Drop, Rule
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table, TableError

_LAYOUT = ModuleNames("down", "up", "block", "", "upsample_conv", ("mid.*",))
_MASKBIT = ModuleNames(
    "down", "up", "res_blocks", "down_conv", "upsample_conv", ("mid.res_blocks.*",), lowest_first=True
)
_TABLE = "quantize.embedding.weight"


class MaskGITVQGAN(CheckpointSource):
    """The public conversions of MaskGIT's tokenizer to torch: 1d-tokenizer's, open-muse's and MaskBit's."""

    name = "maskgit_vqgan"
    title = "MaskGIT's tokenizer (arXiv 2202.04200)"
    marks = ("encoder.conv_in.", "decoder.up.*.upsample_conv.", "quantize.embedding.weight")
    foreign = ("pixel_decoder.", "encoder.down.*.down_conv.")  # TiTok and TokenSet hold its decoder
    keys = ("groups",)

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        return State({_plain(name): value for name, value in checkpoint.tensors().items()})

    @override
    def recipe(self, state: State) -> Sequence[str]:
        return ["experiment=maskgit_vqgan"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        codes, dim = state.shape(_TABLE)
        config = sizes(state, _LAYOUT, config)
        return {**config, "quantizer": {**config["quantizer"], "codebook_size": codes, "dim": dim}}

    @override
    def table(self, config: Config) -> Table:
        encoder = encoder_rules(_LAYOUT, _as_cnn(config["encoder"]), target="encoder.net")
        decoder = decoder_of_maskgit(config["decoder"], "decoder", "decoder.net")
        return Table([*encoder, *decoder, CODEBOOK, *VQ_STATE])


class MaskBit(CheckpointSource):
    """MaskBit's tokenizer with any number of bits, and VQGAN+; their code saves averages alone."""

    name = "maskbit"
    title = "MaskBit's tokenizer and VQGAN+ (arXiv 2409.16211)"
    marks = ("encoder.down.*.res_blocks.", "encoder.down.*.down_conv.", "decoder.up.*.upsample_conv.")
    keys = ("groups",)

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        return State(checkpoint.tensors())

    @override
    def recipe(self, state: State) -> Sequence[str]:
        return ["experiment=vqgan_plus" if _TABLE in state.tensors else "experiment=maskbit"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        config = sizes(state, _MASKBIT, config)
        width = state.shape("encoder.conv_out.weight")[0]
        if _TABLE in state.tensors:
            codes, dim = state.shape(_TABLE)
            return {**config, "quantizer": {**config["quantizer"], "codebook_size": codes, "dim": dim}}
        if width > LARGEST_SLOT:
            raise TableError(f"{_TABLE} is missing, and {width} channels are no bits, which are at most {LARGEST_SLOT}")
        return {**config, "quantizer": {**config["quantizer"], "slot_bits": [width]}}

    @override
    def table(self, config: Config) -> Table:
        encoder = encoder_rules(_MASKBIT, _as_cnn(config["encoder"]), target="encoder.net")
        decoder = decoder_rules(_MASKBIT, _as_cnn(config["decoder"]), target="decoder.net")
        fixed = "bits of the codes, which are no weights"
        binary = [Drop("quantize.codebook", fixed), Drop("quantize.bits_to_indices", fixed)]
        codes = binary if "slot_bits" in config["quantizer"] else [CODEBOOK, *VQ_STATE]
        return Table([*encoder, *decoder, *codes])


def decoder_of_maskgit(settings: Config, source: str, target: str) -> list[Rule]:
    """What becomes of a decoder of MaskGIT's tokenizer.

    Args:
        settings: Multipliers and blocks of the net.
        source: The net in its code.
        target: The net in imtok.
    """
    return decoder_rules(_LAYOUT, _as_cnn(settings), source, target)


def _as_cnn(settings: Config) -> Config:
    """What the rules of VQGAN's nets ask for and this net has no setting of."""
    return {**settings, "attention": "none", "adaptive_norm": "none", "middle": ["residual"] * settings["blocks"]}


def _plain(name: str) -> str:
    """MaskBit's names of the blocks as those of the other conversions."""
    return name.replace(".mid.res_blocks.", ".mid.").replace(".res_blocks.", ".block.")
