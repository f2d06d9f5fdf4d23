"""Checkpoints of FQGAN, with two or three codes at each place."""

from collections.abc import Sequence
from math import isqrt

from typing_extensions import override

from imtok.zoo.blocks import named, self_attention_blocks
from imtok.zoo.cnn import LLAMAGEN
from imtok.zoo.convolutions import decoder_rules, encoder_rules, sizes
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.rules import Drop, Leave, Rename, Rule
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table

_ENTRIES = ("ema", "model", "state_dict")
_POSITIONS = "encoder.visual_head.0.positional_embedding"
# The codes in the order of the decoder's channels, and what its encoder calls the adapter of each.
_DUAL = {"vis": "visual_head", "sem": "semantic_head"}
_TRIPLE = {"vis": "visual_head", "sem_mid": "semantic_head_mid", "sem_high": "semantic_head_high"}
_HEADS = ("feat_pred_head", "mid_sem_feat_pred", "high_sem_feat_pred")
_ADAPTER = {"positional_embedding": "positions.table", "ln_pre": "norm_pre", "ln_post": "norm_post"}


class FQGAN(CheckpointSource):
    """FQGAN Dual and Triple, f16 and f8."""

    name = "fqgan"
    title = "FQGAN Dual and Triple (arXiv 2411.16681)"
    marks = ("encoder.visual_head.", "quantize_vis.")
    keys = ("heads", "groups")

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        return State(checkpoint.tensors(*_ENTRIES), kept=checkpoint.entry(*_ENTRIES))

    @override
    def recipe(self, state: State) -> Sequence[str]:
        two = "quantize_sem.embedding.weight" in state.tensors
        return ["experiment=fqgan_dual" if two else "experiment=fqgan_triple"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        config = sizes(state, LLAMAGEN, config, last="conv_out_vis")
        places, width = state.shape(_POSITIONS)
        adapters = {
            "depth": state.count("encoder.visual_head.0.transformer.*."),
            "heads": state.heads(width, "adapters"),
        }
        parts = config["quantizer"]["parts"]
        codes = [state.shape(f"quantize_{code}.embedding.weight") for code in _codes(len(parts))]
        parts = [{**part, "codebook_size": size, "dim": dim} for part, (size, dim) in zip(parts, codes, strict=True)]
        return {
            **config,
            "encoder": {**config["encoder"], **adapters},
            "quantizer": {**config["quantizer"], "parts": parts},
            "image_size": isqrt(places) * 2 ** (len(config["encoder"]["multipliers"]) - 1),
        }

    @override
    def table(self, config: Config) -> Table:
        rules: list[Rule] = [
            *encoder_rules(LLAMAGEN, config["encoder"]),
            *decoder_rules(LLAMAGEN, config["decoder"]),
            Rename("post_quant_conv", "decoder.project"),
            *(Drop(f"{head}.*", "prediction of a teacher's features, for training only") for head in _HEADS),
        ]
        for part, (code, head) in enumerate(_codes(config["encoder"]["branches"]).items()):
            source, target = f"encoder.{head}.0", f"encoder.adapters.{part}"
            rules += [
                *named(_ADAPTER, source, target),
                *self_attention_blocks(f"{source}.transformer", f"{target}.transformer", config["encoder"]["depth"]),
                Rename(f"encoder.norm_out_{code}", f"{target}.norm_out.0"),
                Rename(f"encoder.conv_out_{code}", f"{target}.conv_out"),
                Rename(f"quant_conv_{code}", f"{target}.project"),
                Rename(f"quantize_{code}.embedding.weight", f"quantizer.parts.{part}.weight"),
                Drop(f"quantize_{code}.codebook_used", "window of used codes"),
                Leave(f"quantizer.parts.{part}.usage", "running use of the codes, for restarts"),
                Leave(f"quantizer.parts.{part}.restarts", "number of restarts"),
            ]
        return Table(rules)


def _codes(number: int) -> dict[str, str]:
    """The names of so many codes, each with that of its adapter."""
    return _DUAL if number == len(_DUAL) else _TRIPLE
