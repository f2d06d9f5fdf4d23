"""Checkpoints of Hita, which leave out the frozen net that it reads."""

from collections.abc import Sequence
from math import isqrt
from pathlib import Path

from torch import Tensor
from typing_extensions import override

from imtok.errors import InputError
from imtok.pretrained import read_tensors
from imtok.spaces.dino import DINOv2
from imtok.zoo.blocks import linear_of_convolution, named
from imtok.zoo.cnn import LLAMAGEN
from imtok.zoo.convolutions import decoder_rules, encoder_rules, sizes
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.layouts import Join, Rearrange, Split
from imtok.zoo.rules import Drop, Leave, Rename, Rule
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table
from imtok.zoo.vfmtok import DINOV2, dinov2_file

_ENCODER, _DECODER = "encode_transformer", "decode_transformer"
_ENTRIES = ("ema", "model", "state_dict")
# What the config of our nets does not say of their CNNs.
_CNN = {
    "attention": "lowest",
    "middle": ["residual", "attention", "residual"],
    "downsample": "padded_end",
    "adaptive_norm": "none",
}
_TRUNKS = {
    f"{_ENCODER}.transformer1": "encoder.trunk_all",
    f"{_ENCODER}.transformer2": "encoder.trunk_causal",
    f"{_DECODER}.transformer": "decoder.trunk",
}
_BLOCK = {"norm1": "norm1", "norm2": "norm2", "ffnet.w3": "mlp.out"}
_CODEBOOKS = ("slot_quantize", "quantize")


class Hita(CheckpointSource):
    """Hita-V and Hita-U. Their file holds no weights of DINOv2: those lie in the authors' file beside it."""

    name = "hita"
    title = "Hita (arXiv 2507.02358)"
    marks = (f"{_ENCODER}.pos_embed", f"{_ENCODER}.transformer2.", "slot_quantize.")
    keys = ("heads", "groups")

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        tensors = checkpoint.tensors(*_ENTRIES)
        if f"{_ENCODER}.pos_embed" in tensors:
            tensors |= _dinov2(dinov2_file(checkpoint.path, "Hita"))
        return State(tensors, kept=checkpoint.entry(*_ENTRIES))

    @override
    def recipe(self, state: State) -> Sequence[str]:
        return ["experiment=hita", "space.weights=null"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        config = sizes(state, LLAMAGEN, config)
        latents, width = state.shape(f"{_ENCODER}.carrier_tokens")[1:]
        trunk = {
            "width": width,
            "depth": state.count(f"{_ENCODER}.transformer1.layers.*."),
            "heads": state.heads(width, "encoder and decoder"),
            "mlp_ratio": state.shape(f"{_ENCODER}.transformer1.layers.0.ffnet.w3.weight")[1] / width,
            "patch_dim": state.shape("quant_conv.weight")[0],
        }
        state.assume(f"the decoder is read {config['decoder']['shift']} positions early, as published")
        grid, factor = state.shape(f"{_ENCODER}.pos_embed")[1], 2 ** (len(config["encoder"]["multipliers"]) - 1)
        codes = [state.shape(f"{name}.embedding.weight") for name in _CODEBOOKS]
        parts = [
            {**part, "codebook_size": size, "dim": dim}
            for part, (size, dim) in zip(config["quantizer"]["parts"], codes, strict=True)
        ]
        seen = state.shape("space.class_token")[-1]
        space = {
            "width": seen,
            "depth": state.count("space.trunk.blocks.*."),
            "heads": seen // 64,  # of every DINOv2
            "registers": state.shape("space.registers")[0],
        }
        return {
            **config,
            "encoder": {**config["encoder"], **trunk, "latents": latents},
            "quantizer": {**config["quantizer"], "parts": parts, "lengths": [latents, grid]},
            "decoder": {**config["decoder"], **trunk},
            "space": {**config["space"], **space},
            "image_size": isqrt(grid) * factor,
        }

    @override
    def table(self, config: Config) -> Table:
        encoder = {"norm_pre1": "norm_all", "norm_pre2": "norm_causal", "proj.mlp": "embed"}
        vectors = {
            f"{_ENCODER}.carrier_tokens": "encoder.queries",
            f"{_ENCODER}.pos_embed": "encoder.positions.table",
            f"{_DECODER}.position_embedding": "decoder.positions.table",
            f"{_DECODER}.slot_position_embedding": "decoder.holistic_positions",
        }
        rules: list[Rule] = [
            *encoder_rules(LLAMAGEN, _CNN | config["encoder"], "encoder", "encoder.cnn"),
            Rename("space", "space"),
            *(Rearrange(source, target, "1 n d", "n d") for source, target in vectors.items()),
            *named(encoder, _ENCODER, "encoder"),
            Rename("pre_slots_quant", "encoder.project_queries"),
            *linear_of_convolution("quant_conv", "encoder.project_patches"),
            Rename("post_slots_quant", "decoder.project_holistic"),
            *linear_of_convolution("post_quant_conv", "decoder.project_patches"),
            Rename(f"{_DECODER}.norm", "decoder.norm_in"),
            Drop(f"{_ENCODER}.backbone.*", "the frozen net, which is read from its own file"),
            *(
                Drop(f"{_DECODER}.{name}", "prediction of DINOv2's features, for training only")
                for name in ("mask_embedding", "norm_vfm.*", "proj.*")
            ),
        ]
        for part, source in enumerate(_CODEBOOKS):
            target = f"quantizer.parts.{part}"
            rules += [
                Rename(f"{source}.embedding.weight", f"{target}.weight"),
                Drop(f"{source}.codebook_used", "window of used codes"),
                Leave(f"{target}.usage", "running use of the codes, for restarts"),
                Leave(f"{target}.restarts", "number of restarts"),
            ]
        for source, target in _TRUNKS.items():
            for block in range(config["encoder"]["depth"]):
                rules += _block(f"{source}.layers.{block}", f"{target}.blocks.{block}", source.endswith("1"))
        return Table([*rules, *decoder_rules(LLAMAGEN, _CNN | config["decoder"], "decoder", "decoder.cnn")])


def _block(source: str, target: str, all_see_all: bool) -> list[Rule]:
    """A block; the attention of the first trunk has other names, and no biases before its scores."""
    kinds = ("weight",) if all_see_all else ("weight", "bias")
    names = ("to_q", "to_k", "to_v") if all_see_all else ("q_proj", "k_proj", "v_proj")
    joined = [
        Join(tuple(f"{source}.attn1.{name}.{kind}" for name in names), f"{target}.attention.query_key_value.{kind}")
        for kind in kinds
    ]
    project = Rename(f"{source}.attn1.{'to_out.0' if all_see_all else 'out_proj'}", f"{target}.attention.project")
    halves = [
        Split(f"{source}.ffnet.w12.{kind}", (f"{target}.mlp.gate.{kind}", f"{target}.mlp.value.{kind}"))
        for kind in ("weight", "bias")
    ]
    return [*named(_BLOCK, source, target), *joined, project, *halves]


def _dinov2(path: Path) -> dict[str, Tensor]:
    """The weights of DINOv2 by imtok's names, with what scales its residuals folded in."""
    tensors = read_tensors(path)
    if missing := [name for name in ("cls_token", "register_tokens") if name not in tensors]:
        raise InputError(f"{path} has no {missing[0]}; give DINOv2 with registers in its authors' file, {DINOV2}")
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    width, registers = tensors["cls_token"].shape[-1], tensors["register_tokens"].shape[1]
    space = DINOv2(width=width, depth=len(blocks), heads=1, registers=registers)
    space.read_weights(path)
    return {f"space.{name}": value for name, value in space.state_dict().items()}
