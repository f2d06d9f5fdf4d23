"""Checkpoints of diffusers' VQModel."""

from collections.abc import Sequence
from dataclasses import replace

from typing_extensions import override

from imtok.spaces.diffusers_names import modern_name
from imtok.zoo.cnn import CODEBOOK, PROJECTIONS, VQ_STATE
from imtok.zoo.convolutions import DIFFUSERS, ModuleNames, decoder_rules, encoder_rules, sizes
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table, TableError

_BLOCKS = ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1")
_LAYOUT = ModuleNames(
    "down_blocks", "up_blocks", "resnets", "downsamplers.0.conv", "upsamplers.0.conv", _BLOCKS, True, modules=DIFFUSERS
)
_CODES = "quantize.embedding.weight"
_WANTED = {"norm_type": "group", "act_fn": "silu"}


class DiffusersVQ(CheckpointSource):
    """VQModel of diffusers; the config.json beside it tells the groups of its norms."""

    name = "diffusers"
    title = "VQModel of diffusers (VQ-VAE, arXiv 1711.00937)"
    marks = ("encoder.down_blocks.", "encoder.mid_block.", _CODES)
    keys = ("groups",)

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        tensors = {modern_name(key): value for key, value in checkpoint.tensors().items()}
        return State(tensors, facts=checkpoint.beside())

    @override
    def recipe(self, state: State) -> Sequence[str]:
        return ["encoder=cnn_taming", "quantizer=vq_taming", "decoder=cnn_taming", "image_size=256"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        for key, wanted in _WANTED.items():
            if (told := state.facts.get(key, wanted)) != wanted:
                raise TableError(f"config.json beside it says {key}: {told}, and imtok has {wanted} alone")
        groups = state.given.get("groups", state.facts.get("norm_num_groups"))
        if groups is None:
            state.assume("there is no config.json beside it: 32 groups in each norm of maps, and SiLU (groups=NUMBER)")
        else:
            state = replace(state, given={**state.given, "groups": groups})
        middle = ["residual", "attention", "residual"]
        if "encoder.mid_block.attentions.0.group_norm.weight" not in state.tensors:
            middle.remove("attention")
        parts = {part: {**config[part], "middle": middle} for part in ("encoder", "decoder")}
        config = sizes(state, _LAYOUT, {**config, **parts})
        codes, dim = state.shape(_CODES)
        return {**config, "quantizer": {**config["quantizer"], "codebook_size": codes, "dim": dim}}

    @override
    def table(self, config: Config) -> Table:
        layout = _LAYOUT
        if len(config["encoder"]["middle"]) == 2:
            layout = replace(layout, middle=(_BLOCKS[0], _BLOCKS[2]))
        nets = encoder_rules(layout, config["encoder"]) + decoder_rules(layout, config["decoder"])
        return Table([*nets, *PROJECTIONS, CODEBOOK, *VQ_STATE])
