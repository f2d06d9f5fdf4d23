"""Checkpoints of UniTok, whose nets are those of ViTamin around a codebook for each part of the channels."""

from collections.abc import Sequence
from dataclasses import replace

from typing_extensions import override

from imtok.zoo.blocks import named
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.layouts import Join
from imtok.zoo.rules import Drop, Leave, Rename, Rule
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table, TableError

_CONVOLUTIONS = "encoder.patch_embed.backbone"
_CODES = "quantizer.codebooks"
_BLOCK = {
    "norm1": "norm1",
    "attn.qkv": "attention.query_key_value",
    "attn.proj": "attention.project",
    "norm2": "norm2",
    "mlp.norm": "mlp.0",
    "mlp.w0": "mlp.1.gate",
    "mlp.w1": "mlp.1.value",
    "mlp.w2": "mlp.1.out",
}
_BOTTLENECK = {
    "pre_norm": "norm",
    "conv1_1x1": "widen",
    "conv2_kxk": "each",
    "conv3_1x1": "project",
    "up.conv": "upsample.conv",
    "shortcut.expand": "shortcut.1",  # in the encoder
    "shortcut.conv": "shortcut.conv",  # in the decoder
}
_PROJECTION = {
    "norm1": "norm_attention",
    "norm2": "norm_mlp",
    "norm3": "norm_shortcut",
    "attn.qkv": "query_key_value",
    "attn.proj": "project",
    "proj": "shortcut",
    "mlp.norm": "norm_gate",
    "mlp.w0": "gate",
    "mlp.w1": "value",
    "mlp.w2": "out",
}
_ENDS = {
    f"{_CONVOLUTIONS}.stem.conv1": "encoder.stem.0",
    f"{_CONVOLUTIONS}.stem.norm1": "encoder.stem.1",
    f"{_CONVOLUTIONS}.stem.conv2": "encoder.stem.3",
    f"{_CONVOLUTIONS}.pool.norm": "encoder.embed.0",
    f"{_CONVOLUTIONS}.pool.proj": "encoder.embed.1",
    "encoder.norm": "encoder.norm_out",
    "decoder.norm": "decoder.norm_out",
    "decoder.up_conv1.conv": "decoder.upsample.conv",
}
_PROJECTIONS = {"quant_proj": "encoder.project", "post_quant_proj": "decoder.embed"}


class UniTok(CheckpointSource):
    """UniTok, as its trainer saves it: the weights lie two levels deep, beside its arguments."""

    name = "unitok"
    title = "UniTok (arXiv 2502.20321)"
    marks = (
        "encoder.patch_embed.backbone.stem.",
        "post_quant_proj.attn.q_bias",
        "quantizer.codebooks.*.codebook.weight",
    )
    keys = ("heads",)

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        told, inner = checkpoint.content.get("args"), checkpoint.content.get("trainer")
        facts = told if isinstance(told, dict) else {}
        if not isinstance(inner, dict):
            return State(checkpoint.tensors("unitok"), facts=facts, kept=checkpoint.entry("unitok"))
        return State(replace(checkpoint, content=inner).tensors("unitok"), facts=facts, kept="trainer.unitok")

    @override
    def recipe(self, state: State) -> Sequence[str]:
        return ["experiment=unitok"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        if "encoder.pos_embed" in state.tensors and state.tensors["encoder.pos_embed"].any():
            raise TableError("encoder.pos_embed must be 0, since the public net has no positions")
        state.assume("attention to and from the codes: of all tokens, as in the files since April 2025")
        parts = state.count(f"{_CODES}.*.")
        codes, dim = state.shape(f"{_CODES}.0.codebook.weight")
        part = {**config["quantizer"]["parts"][0], "codebook_size": codes, "dim": dim}
        levels = {"encoder": state.count(f"{_CONVOLUTIONS}.stages.*."), "decoder": state.count("decoder.up_conv*.") - 2}
        return {
            **config,
            **{name: {**config[name], **_sizes(state, name, number)} for name, number in levels.items()},
            "quantizer": {**config["quantizer"], "parts": [part] * parts, "loss_weight": 1 / parts},
            "image_size": state.facts.get("img_size", config["image_size"]),
        }

    @override
    def table(self, config: Config) -> Table:
        last = f"decoder.up_conv{len(config['decoder']['convolutions']) + 2}"
        rules: list[Rule] = [
            *(Rename(source, target) for source, target in _ENDS.items()),
            *named({"conv1.conv": "head.0.conv", "norm1": "head.1", "conv2": "conv_out"}, last, "decoder"),
            Drop("encoder.pos_embed", "positions, all 0"),
            Drop("*quant_proj.attn.zero_k_bias", "bias of the keys, all 0"),
            Drop(f"{_CODES}.*.vocab_usage", "use of the codes"),
            *(Drop(name, "contrast with captions") for name in ("text_encoder.*", "fc_norm.*", "projection.*")),
            Drop("logit_scale", "contrast with captions"),
        ]
        for source, target in _PROJECTIONS.items():
            biases = (f"{source}.attn.q_bias", f"{source}.attn.v_bias")
            rules += named(_PROJECTION, source, target)
            rules.append(
                Join(biases, f"{target}.query_value_bias", before="(part d)", after="part d", sizes={"part": 2})
            )
        for place in range(len(config["quantizer"]["parts"])):
            rules.append(Rename(f"{_CODES}.{place}.codebook.weight", f"quantizer.parts.{place}.weight"))
        rules += [
            Leave("quantizer.parts.*.usage", "running use of the codes, for restarts"),
            Leave("quantizer.parts.*.restarts", "number of restarts"),
        ]
        for name in ("encoder", "decoder"):
            convolutions = config[name]["convolutions"]
            for level, source in enumerate(_places(name, len(convolutions))):
                place = level if name == "encoder" else len(convolutions) - 1 - level
                for block in range(convolutions[level]):
                    rules += named(_BOTTLENECK, f"{source}.{block}", f"{name}.levels.levels.{place}.{block}")
            for block in range(config[name]["depth"]):
                rules += named(_BLOCK, f"{name}.blocks.{block}", f"{name}.trunk.blocks.{block}")
        return Table(rules)


def _places(name: str, levels: int) -> list[str]:
    """What the code calls the levels of a net, highest resolution first."""
    if name == "encoder":
        return [f"{_CONVOLUTIONS}.stages.{level}" for level in range(levels)]
    return [f"decoder.up_conv{levels + 1 - level}" for level in range(levels)]


def _sizes(state: State, name: str, levels: int) -> Config:
    """Channels, blocks and widths of a net."""
    places = _places(name, levels)
    widths = [state.shape(f"{place}.0.conv3_1x1.weight")[0] for place in places]
    channels = state.shape(f"{_CONVOLUTIONS}.stem.conv1.weight")[0] if name == "encoder" else widths[0]
    width = state.shape(f"{name}.norm.weight")[0]
    return {
        "channels": channels,
        "multipliers": [own // channels for own in widths],
        "convolutions": [state.count(f"{place}.*.pre_norm.") for place in places],
        "width": width,
        "depth": state.count(f"{name}.blocks.*."),
        "heads": state.heads(width, name),
    }
