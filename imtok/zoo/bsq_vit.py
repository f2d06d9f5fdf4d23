"""Checkpoints of BSQ-ViT."""

from collections.abc import Sequence
from math import isqrt

from typing_extensions import override

from imtok.weight_files import plain_names
from imtok.zoo.blocks import named, self_attention_blocks
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.layouts import Rearrange
from imtok.zoo.rules import Drop, Rename, Rule
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table

_SLOT_BITS = 18  # of a slot in bsq_18 and bsq_36


class BSQViT(CheckpointSource):
    """BSQ-ViT with 18 and 36 bits. Its code writes channel 0 as the highest bit of an id, imtok as the lowest."""

    name = "bsq_vit"
    title = "BSQ-ViT (arXiv 2406.07548)"
    marks = ("encoder.transformer.resblocks.", "quant_embed.weight")
    keys = ("heads",)

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        tensors = checkpoint.tensors("ema_state_dict", "state_dict")
        counter = tensors.pop("n_averaged", None)
        dropped = {} if counter is None else {"n_averaged": "counter of the average"}
        return State(plain_names(tensors), dropped, kept=checkpoint.entry("ema_state_dict", "state_dict"))

    @override
    def recipe(self, state: State) -> Sequence[str]:
        bits = state.shape("quant_embed.weight")[0]
        return ["experiment=bsq_vit", f"quantizer={'bsq_36' if bits == 36 else 'bsq_18'}"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        bits = state.shape("quant_embed.weight")[0]
        patch_size = isqrt(state.shape("encoder.conv1.weight")[1] // 3)
        parts = {}
        for part in ("encoder", "decoder"):
            width = state.shape(f"{part}.positional_embedding")[1]
            norm_in = "layer" if f"{part}.ln_pre.weight" in state.tensors else "none"
            depth = state.count(f"{part}.transformer.resblocks.*.")
            sizes = {"width": width, "depth": depth, "heads": state.heads(width, part), "patch_size": patch_size}
            parts[part] = {**config[part], **sizes, "norm_in": norm_in}
        parts["decoder"]["hidden"] = state.shape("decoder.ffn.0.weight")[0]
        whole, rest = divmod(bits, _SLOT_BITS)
        quantizer = config["quantizer"]
        if bits != sum(quantizer["slot_bits"]):
            quantizer = {**quantizer, "slot_bits": [_SLOT_BITS] * whole + [rest] * (rest > 0)}
        side = isqrt(state.shape("encoder.positional_embedding")[0]) * patch_size
        return {**config, **parts, "quantizer": quantizer, "image_size": side}

    @override
    def table(self, config: Config) -> Table:
        patch = {"p": config["encoder"]["patch_size"], "q": config["encoder"]["patch_size"]}
        rules: list[Rule] = [
            Rearrange("encoder.conv1.weight", "encoder.patches.weight", "d (c p q)", "d c p q", patch),
            Rename("encoder.conv1.bias", "encoder.patches.bias"),
            Rename("quant_embed", "encoder.project"),
            Rename("post_quant_embed", "decoder.embed"),
            Rename("decoder.ffn.0", "decoder.head.0"),
            Rename("decoder.conv_out", "decoder.pixels"),
            Drop("quantize.basis", "powers of two"),
            Drop("quantize.group_basis", "powers of two"),
        ]
        names = {"positional_embedding": "positions.table", "ln_pre": "norm_in", "ln_post": "norm_out"}
        for part in ("encoder", "decoder"):
            rules += named(names, part, part)
            rules += self_attention_blocks(f"{part}.transformer.resblocks", f"{part}.trunk", config[part]["depth"])
        return Table(rules)
