"""Checkpoints of the 1D tokenizer of Instella-T2I."""

from collections.abc import Sequence

from typing_extensions import override

from imtok.zoo.blocks import named
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.layouts import Join, Rearrange
from imtok.zoo.rules import Drop, Rename, Rule
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table, TableError

_EMBED = "quantizer.embed"
_SLOT_BITS = 8
_BLOCK = {
    "input_layernorm": "norm1",
    "attn.norm_q": "attention.query_norm",
    "attn.norm_k": "attention.key_norm",
    "attn.o_proj": "attention.project",
    "post_attention_layernorm": "norm2",
    "mlp.gate_proj": "mlp.gate",
    "mlp.up_proj": "mlp.value",
    "mlp.down_proj": "mlp.out",
}


class Instella(CheckpointSource):
    """The tokenizer of 128 tokens of 64 bits, for images of 1024 pixels as the public generators use it."""

    name = "instella"
    title = "Instella-T2I's tokenizer (arXiv 2506.21022)"
    marks = ("encoder.patch_embedder.", "encoder.latent_tokens", _EMBED)

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        return State(checkpoint.tensors())

    @override
    def recipe(self, state: State) -> Sequence[str]:
        return ["experiment=instella_1d", "encoder.rotary=published", "decoder.rotary=published", "image_size=1024"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        width, patch_size = (state.shape("encoder.patch_embedder.weight")[place] for place in (0, -1))
        bits, latent_width = state.shape(_EMBED)
        wide = state.shape("decoder.input_layer.1.weight")[0]
        before, after = config["encoder"]["depth"], config["decoder"]["coarse_depth"]
        rest = [
            state.count(f"{part}.transformer_blocks.*.") - first
            for part, first in (("encoder", before), ("decoder", after))
        ]
        if min(rest) < 1:
            raise TableError(f"there must be more than {before} blocks in the encoder and {after} in the decoder")
        state.assume(f"patches are halved after {before} blocks and doubled after {after}, as in the published net")
        encoder = {"width": width, "heads": _heads(state, "encoder", width), "coarse_depth": rest[0]}
        encoder["latents"] = state.shape("encoder.latent_tokens")[1]
        decoder = {
            "width": wide,
            "heads": _heads(state, "decoder", wide),
            "depth": rest[1],
            "latent_width": latent_width,
        }
        whole, left = divmod(bits, _SLOT_BITS)
        return {
            **config,
            "encoder": {**config["encoder"], **encoder, "patch_size": patch_size},
            "quantizer": {**config["quantizer"], "slot_bits": [_SLOT_BITS] * whole + [left] * (left > 0)},
            "decoder": {**config["decoder"], **decoder, "patch_size": patch_size},
        }

    @override
    def table(self, config: Config) -> Table:
        encoder, decoder = config["encoder"], config["decoder"]
        names = {"patch_embedder": "patches", "down_layers.0": "halving", "norm_out": "norm_out"}
        back = {"input_layer.0": "norm_in", "input_layer.1": "widen", "up_layers.0": "doubling", "norm_out": "norm_out"}
        return Table(
            [
                *named(names | {"proj_out": "project.0"}, "encoder", "encoder"),
                Rearrange("encoder.latent_tokens", "encoder.queries", "1 n d", "n d"),
                Rename("quantizer.proj.0", "encoder.project.1"),
                Rearrange(_EMBED, "decoder.embed.weight", "b d", "d b"),
                *named(back, "decoder", "decoder"),
                Rearrange("decoder.mask_tokens", "decoder.mask", "1 1 d", "d"),
                Rename("to_pixel", "decoder.to_pixels"),
                Drop("decoder.repa_proj.*", "alignment with DINOv2, for training only"),
                *_blocks("encoder", ("trunk", encoder["depth"]), ("coarse_trunk", encoder["coarse_depth"])),
                *_blocks("decoder", ("coarse_trunk", decoder["coarse_depth"]), ("trunk", decoder["depth"])),
            ]
        )


def _heads(state: State, part: str, width: int) -> int:
    """Heads of a part: each query is normed over the channels of a head."""
    return width // state.shape(f"{part}.transformer_blocks.0.attn.norm_q.weight")[0]


def _blocks(part: str, first: tuple[str, int], second: tuple[str, int]) -> list[Rule]:
    """The blocks of a part, which are numbered through both of its trunks."""
    targets = [f"{part}.{trunk}.blocks.{block}" for trunk, depth in (first, second) for block in range(depth)]
    rules: list[Rule] = []
    for number, target in enumerate(targets):
        source = f"{part}.transformer_blocks.{number}"
        parts = tuple(f"{source}.attn.{name}_proj.weight" for name in "qkv")
        rules += [*named(_BLOCK, source, target), Join(parts, f"{target}.attention.query_key_value.weight")]
    return rules
