"""Checkpoints of MaskGIT's tokenizer, and the rules of its nets, which files of TiTok and TokenSet hold, too."""

from collections.abc import Sequence

from typing_extensions import override

from imtok.zoo.cnn import CODEBOOK, VQ_STATE
from imtok.zoo.convolutions import ModuleNames, decoder_rules, encoder_rules, sizes
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.rules import Rule
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table, TableError

_LAYOUT = ModuleNames("down", "up", "block", "", "upsample_conv", ("mid.*",))
_HALVING = "encoder.down.0.down_conv.weight"


class MaskGITVQGAN(CheckpointSource):
    """The public conversions of MaskGIT's tokenizer to torch: 1d-tokenizer's, open-muse's and MaskBit's."""

    name = "maskgit_vqgan"
    title = "MaskGIT's tokenizer (arXiv 2202.04200)"
    marks = ("encoder.conv_in.", "decoder.up.*.upsample_conv.", "quantize.embedding.weight")
    foreign = ("pixel_decoder.",)  # TiTok and TokenSet hold its decoder
    keys = ("groups",)

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        return State({_plain(name): value for name, value in checkpoint.tensors().items()})

    @override
    def recipe(self, state: State) -> Sequence[str]:
        return ["experiment=maskgit_vqgan"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        if _HALVING in state.tensors:
            raise TableError("it halves its maps by convolutions, as VQGAN+ and MaskBit do, and MaskGIT by means")
        codes, dim = state.shape("quantize.embedding.weight")
        config = sizes(state, _LAYOUT, config)
        return {**config, "quantizer": {**config["quantizer"], "codebook_size": codes, "dim": dim}}

    @override
    def table(self, config: Config) -> Table:
        encoder = encoder_rules(_LAYOUT, _as_cnn(config["encoder"]), target="encoder.net")
        decoder = decoder_of_maskgit(config["decoder"], "decoder", "decoder.net")
        return Table([*encoder, *decoder, CODEBOOK, *VQ_STATE])


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
