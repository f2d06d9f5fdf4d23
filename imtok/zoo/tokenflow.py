"""Checkpoints of TokenFlow, whose net for meaning is CLIP's image encoder."""

from collections.abc import Sequence
from dataclasses import replace
from math import isqrt

from typing_extensions import override

from imtok.zoo.blocks import named, self_attention_blocks
from imtok.zoo.cnn import LLAMAGEN, VQ_STATE
from imtok.zoo.convolutions import decoder_rules, encoder_rules, sizes
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.layouts import Join, Placed, Rearrange
from imtok.zoo.rules import Drop, Rename
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table, TableError

_ENTRIES = ("ema", "model", "state_dict")
_NET, _TARGET = "encoder_vqkd", "encoder.semantic.net"
_PATCHES, _POSITIONS = f"{_NET}.conv1.weight", f"{_NET}.positional_embedding"
_CODES = ("quantize.embedding_vqkd.weight", "quantize.embedding_vqgan.weight")
_MORE = 16  # codes a side of the scale that its code adds for images of 256 pixels


class TokenFlow(CheckpointSource):
    """TokenFlow with CLIP ViT-B/16, with the plain and with the enhanced decoder."""

    name = "tokenflow"
    title = "TokenFlow with CLIP (arXiv 2412.03069)"
    marks = (f"{_NET}.", "encode_task_layer.", *_CODES)
    keys = ("heads", "groups")

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        tensors = checkpoint.tensors(*_ENTRIES)
        if _PATCHES not in tensors and any(key.startswith(f"{_NET}.") for key in tensors):
            raise TableError("its net for meaning is SigLIP or ViTamin, and imtok reads TokenFlow with CLIP alone")
        return State(tensors, kept=checkpoint.entry(*_ENTRIES))

    @override
    def recipe(self, state: State) -> Sequence[str]:
        return ["experiment=tokenflow", "encoder.semantic.weights=null"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        encoder, decoder = config["encoder"], config["decoder"]
        nets = sizes(state, LLAMAGEN, {"encoder": encoder["pixels"], "decoder": decoder["net"]})
        width, *_, patch = state.shape(_PATCHES)
        side = isqrt(state.shape(_POSITIONS)[0] - 1)
        semantic = {
            "width": width,
            "depth": state.count(f"{_NET}.transformer.resblocks.*."),
            "heads": state.heads(width, "net for meaning"),
            "patch_size": patch,
            "factor": patch,
        }
        (codes, meant), (_, drawn) = (state.shape(name) for name in _CODES)
        quantizer = config["quantizer"]
        inner = {**quantizer["quantizer"], "part_dims": [meant, drawn], "codebook_size": codes}
        share = {"pixel_share": drawn / (meant + drawn)}
        image_size = state.given.get("image_size") or side * patch
        scales = _scales(state, quantizer["sizes"], image_size, patch)
        return {
            **config,
            "encoder": {
                **encoder, **share, "semantic": {**encoder["semantic"], **semantic}, "pixels": nets["encoder"]
            },
            "quantizer": {**quantizer, "quantizer": inner, "sizes": scales},
            "decoder": {**decoder, **share, "net": nets["decoder"]},
            "image_size": image_size,
        }  # fmt: skip

    @override
    def table(self, config: Config) -> Table:
        encoder = config["encoder"]
        semantic = encoder["semantic"]
        grid = (config["image_size"] // semantic["patch_size"]) ** 2
        places = (f"{_TARGET}.class_position", f"{_TARGET}.positions.table")
        widths = tuple(config["quantizer"]["quantizer"]["part_dims"])
        return Table(
            [
                Rearrange(f"{_NET}.class_embedding", f"{_TARGET}.class_token", "d", "1 d"),
                Placed(_POSITIONS, places, (1, grid)),
                *named({"conv1": "patches", "ln_pre": "norm_in", "ln_post": "norm"}, _NET, _TARGET),
                *self_attention_blocks(f"{_NET}.transformer.resblocks", f"{_TARGET}.trunk", semantic["depth"]),
                Rename("encode_task_layer", "encoder.project"),
                *encoder_rules(LLAMAGEN, encoder["pixels"], target="encoder.pixels"),
                Rename("quant_conv", "encoder.pixels.project"),
                Join(_CODES, "quantizer.quantizer.weight", widths, axis=1),
                *(replace(rule, pattern=f"quantizer.{rule.pattern}") for rule in VQ_STATE),
                Rename("post_quant_conv", "decoder.net.project"),
                *decoder_rules(LLAMAGEN, config["decoder"]["net"], target="decoder.net"),
                Drop("decoder_vqkd.*", "prediction of CLIP's features, for training only"),
                Drop("decode_task_layer.*", "prediction of CLIP's features, for training only"),
                Drop("quantize.codebook_used", "window of used codes"),
            ]
        )


def _scales(state: State, published: Sequence[int], image_size: int, patch: int) -> list[int]:
    """Codes a side of each scale: as published, or with the one that TokenFlow's code adds for a larger grid.

    Raises:
        TableError: If they do not fill the images.
    """
    sizes = [*published, *([_MORE] if image_size == _MORE * patch else [])]
    if image_size != sizes[-1] * patch:
        sides = f"{published[-1] * patch} or {_MORE * patch}"
        raise TableError(f"its scales fill images of {sides} pixels and no others, got {image_size}")
    told = "" if state.given.get("image_size") else f" (image_size={_MORE * patch} for its generator)"
    state.assume(f"scales with {', '.join(map(str, sizes))} codes a side, as in its code{told}")
    return sizes
