"""Checkpoints of VFMTok, which leave out the frozen net that they read."""

from collections.abc import Sequence
from math import isqrt
from pathlib import Path

from typing_extensions import override

from imtok.errors import InputError
from imtok.pretrained import read_tensors
from imtok.zoo.blocks import VIT_BLOCK, named
from imtok.zoo.cnn import LLAMAGEN
from imtok.zoo.convolutions import decoder_rules
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.layouts import Join, Placed, Rearrange, Split
from imtok.zoo.rules import Drop, Leave, Rename, Rule
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table

DINOV2 = "dinov2_vitl14_reg4_pretrain.pth"
_FROM = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14"
_ENCODER, _DECODER = "encode_transformer", "decode_transformer"
_NET = f"{_ENCODER}.backbone.pretrained_encoder"
_POSITIONS, _OWN_POSITIONS = f"{_NET}.pos_embed", f"{_DECODER}.position_embedding"
# What the config of our decoder does not say of its CNN.
_CNN = {"attention": "none", "middle": ["residual", "attention", "residual"], "adaptive_norm": "none"}
_LEVEL = {"mlp.0": "0", "mlp.1": "1", "mlp.3": "3", "mlp.4": "4"}
_READ = {
    "cross_attn.sampling_offsets": "read.offsets",
    "cross_attn.attention_weights": "read.weights",
    "cross_attn.value_proj": "read.value",
    "cross_attn.output_proj": "read.project",
    "norm1": "norm1",
    "self_attn.out_proj": "attention.project",
    "norm3": "norm2",
    "linear1": "mlp.0",
    "linear2": "mlp.2",
    "norm2": "norm3",
}
_FILL = {"norm1": "norm1", "attn1.out_proj": "attention.project", "norm2": "norm2", "ffnet.w3": "mlp.out"}
_ENTRIES = ("ema", "model", "state_dict")


class VFMTok(CheckpointSource):
    """VFMTok with DINOv2-L. Its file holds no weights of DINOv2: those lie in the authors' file beside it."""

    name = "vfmtok"
    title = "VFMTok (arXiv 2507.08441)"
    marks = ("encode_transformer.", "slot_quantize.")
    foreign = ("encode_transformer.pos_embed",)  # Hita has it
    keys = ("heads", "groups")

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        tensors = checkpoint.tensors(*_ENTRIES)
        if _OWN_POSITIONS in tensors and not any(key.startswith(f"{_NET}.") for key in tensors):
            net = read_tensors(dinov2_file(checkpoint.path, "VFMTok"))
            tensors |= {f"{_NET}.{key}": value for key, value in net.items()}
        return State(tensors, kept=checkpoint.entry(*_ENTRIES))

    @override
    def recipe(self, state: State) -> Sequence[str]:
        return ["experiment=vfmtok", "encoder.net.weights=null"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        seen, depth = state.shape(f"{_NET}.cls_token")[-1], state.count(f"{_NET}.blocks.*.")
        levels, patch = state.count(f"{_ENCODER}.projectors.*."), state.shape(f"{_NET}.patch_embed.proj.weight")[-1]
        net = {
            "width": seen,
            "depth": depth,
            "heads": seen // 64,  # of every DINOv2
            "registers": state.shape(f"{_NET}.register_tokens")[1],
            "patch_size": patch,
            "factor": patch,
            "layers": [depth * (level + 1) // levels - 1 for level in range(levels)],
        }
        # The encoder: tokens that look into maps of several layers of DINOv2.
        queries, width = state.shape(f"{_ENCODER}.carrier_tokens")[1:]
        read, heads = f"{_ENCODER}.transformer.layers", state.heads(width, "encoder and decoder")
        encoder = {
            "net": {**config["encoder"]["net"], **net},
            "grid": isqrt(queries),
            "width": width,
            "depth": state.count(f"{read}.*."),
            "heads": heads,
            "points": state.shape(f"{read}.0.cross_attn.attention_weights.weight")[0] // (heads * levels),
            "hidden": state.shape(f"{read}.0.linear1.weight")[0],
        }
        # The decoder: a transformer, then convolutions.
        fill = f"{_DECODER}.transformer.layers"
        channels, levels = state.shape("decoder.conv_out.weight")[1], state.count("decoder.conv_blocks.*.")
        widths = [state.shape(f"decoder.conv_blocks.{level}.res.0.conv2.weight")[0] for level in range(levels)]
        decoder = {
            "feature_dim": state.shape(f"{_DECODER}.proj.weight")[0],
            "factor": patch,
            "width": width,
            "depth": state.count(f"{fill}.*."),
            "heads": heads,
            "hidden": state.shape(f"{fill}.0.ffnet.w3.weight")[1],
            "channels": channels,
            **state.groups([channels, *widths], "decoder"),
            "multipliers": [one // channels for one in reversed(widths)],
            "blocks": state.count("decoder.conv_blocks.0.res.*."),
        }
        codes, dim = state.shape("slot_quantize.embedding.weight")
        return {
            **config,
            "encoder": {**config["encoder"], **encoder},
            "quantizer": {**config["quantizer"], "codebook_size": codes, "dim": dim},
            "decoder": {**config["decoder"], **decoder},
            "image_size": isqrt(state.shape(_OWN_POSITIONS)[1] - 1) * patch,
        }

    @override
    def table(self, config: Config) -> Table:
        encoder, decoder = config["encoder"], config["decoder"]
        cnn = _CNN | {name: decoder[name] for name in ("multipliers", "blocks")}
        grid = (config["image_size"] // decoder["factor"]) ** 2
        return Table(
            [
                *_net(encoder["net"]["depth"], grid),
                *_encoder(len(encoder["net"]["layers"]), encoder["depth"]),
                Rename("pre_slots_quant", "encoder.project"),
                Rename("slot_quantize.embedding.weight", "quantizer.weight"),
                Rename("post_slots_quant", "decoder.embed"),
                *_decoder(decoder["depth"], grid),
                *decoder_rules(LLAMAGEN, cnn, "decoder", "decoder.cnn"),
                Leave("quantizer.usage", "running use of the codes, for restarts"),
                Leave("quantizer.restarts", "number of restarts"),
                Drop("slot_quantize.codebook_used", "window of used codes"),
                Drop(f"{_DECODER}.register_tokens", "tokens that no other one sees"),
                Drop(f"{_NET}.mask_token", "the mask token of pretraining"),
            ]
        )


def dinov2_file(path: Path, whose: str) -> Path:
    """The authors' file of DINOv2 beside a checkpoint.

    Args:
        path: The checkpoint.
        whose: The family that reads it.

    Raises:
        InputError: If it is not there.
    """
    beside = path.parent / DINOV2
    if not beside.is_file():
        raise InputError(
            f"{path} leaves out the weights of DINOv2-L, which {whose} reads; put the authors' {DINOV2} beside it "
            f"({_FROM}/{DINOV2})"
        )
    return beside


def _net(depth: int, grid: int) -> list[Rule]:
    target = "encoder.net.net"
    return [
        Rearrange(f"{_NET}.cls_token", f"{target}.class_token", "1 n d", "n d"),
        Rearrange(f"{_NET}.register_tokens", f"{target}.registers", "1 n d", "n d"),
        _placed(Placed, _POSITIONS, target, grid),
        *named({"patch_embed.proj": "patches", "norm": "norm"}, _NET, target),
        *(
            rule
            for block in range(depth)
            for rule in named(VIT_BLOCK, f"{_NET}.blocks.{block}", f"{target}.trunk.blocks.{block}")
        ),
    ]


def _encoder(levels: int, depth: int) -> list[Rule]:
    rules: list[Rule] = [
        Rearrange(f"{_ENCODER}.carrier_tokens", "encoder.queries", "1 n d", "n d"),
        Rearrange(f"{_ENCODER}.slots_pos", "encoder.positions", "1 n d", "n d"),
        Rename(f"{_ENCODER}.norm_pre1", "encoder.norm_in"),
    ]
    for level in range(levels):
        rules += named(_LEVEL, f"{_ENCODER}.projectors.{level}", f"encoder.levels.{level}")
        rules.append(Rename(f"{_ENCODER}.norm_layers.{level}", f"encoder.levels.{level}.5"))
    for block in range(depth):
        source, target = f"{_ENCODER}.transformer.layers.{block}", f"encoder.blocks.{block}"
        rules += [*named(_READ, source, target), *_joined(f"{source}.self_attn", target)]
    return rules


def _decoder(depth: int, grid: int) -> list[Rule]:
    vectors = {
        "slot_position_embedding": "latent_positions",
        "cls_token": "class_token",
        "mask_embedding": "mask_token",
        "mask_dino": "feature_token",
    }
    rules: list[Rule] = [
        *(Rearrange(f"{_DECODER}.{old}", f"decoder.{new}", "1 n d", "n d") for old, new in vectors.items()),
        _placed(Split, _OWN_POSITIONS, "decoder", grid),
        *named({"norm_post1": "norm_in", "norm_post2": "feature_norm", "proj": "features"}, _DECODER, "decoder"),
    ]
    for block in range(depth):
        source, target = f"{_DECODER}.transformer.layers.{block}", f"decoder.trunk.blocks.{block}"
        rules += [*named(_FILL, source, target), *_joined(f"{source}.attn1", target)]
        for kind in ("weight", "bias"):
            halves = (f"{target}.mlp.gate.{kind}", f"{target}.mlp.value.{kind}")
            rules.append(Split(f"{source}.ffnet.w12.{kind}", halves))
    return rules


def _placed(rule: type[Split], source: str, target: str, grid: int) -> Rule:
    """Positions of the class token, then of the patches."""
    return rule(source, (f"{target}.class_position", f"{target}.positions.table"), (1, grid), "1 n d", "n d")


def _joined(source: str, target: str) -> list[Rule]:
    """Query, key and value, which are one matrix in imtok."""
    return [
        Join(tuple(f"{source}.{part}_proj.{kind}" for part in "qkv"), f"{target}.attention.query_key_value.{kind}")
        for kind in ("weight", "bias")
    ]
