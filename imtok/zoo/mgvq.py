"""Checkpoints of MGVQ, whose nets are those of DC-AE around a codebook for each group of channels."""

from collections.abc import Sequence

from typing_extensions import override

from imtok.zoo.blocks import named
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.layouts import Split
from imtok.zoo.rules import Drop, Leave, Rename, Rule
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table, TableError

_CODES = "quantize.embedding.weight"
_HEAD_WIDTH = 32
_RESIDUAL = {  # running averages are there where the norm is batch norm
    "conv1.conv": "conv1",
    "conv2.conv": "conv2",
    "conv2.norm.weight": "norm.weight",
    "conv2.norm.bias": "norm.bias",
    "conv2.norm.running_mean": "norm.mean",
    "conv2.norm.running_var": "norm.variance",
}
_ATTENTION = {"qkv.conv": "qkv", "proj.conv": "project", "proj.norm": "norm"}
_GATED = {
    "inverted_conv.conv": "widen",
    "depth_conv.conv": "each",
    "point_conv.conv": "project",
    "point_conv.norm": "norm",
}
_ENDS = {
    "encoder.project_in.conv.conv": "encoder.conv_in",
    "encoder.project_out.main.op_list.0.conv": "encoder.conv_out",
    "quant_conv": "encoder.project",
    "post_quant_conv": "decoder.project",
    "decoder.project_in.main.conv": "decoder.conv_in",
    "decoder.project_out.op_list.0": "decoder.norm_out",
    "decoder.project_out.op_list.2.conv.conv": "decoder.conv_out",
}


class MGVQ(CheckpointSource):
    """MGVQ f8, f16 and f32 with any number of groups."""

    name = "mgvq"
    title = "MGVQ (arXiv 2507.07997)"
    marks = ("encoder.stages.*.op_list.", "decoder.stages.*.op_list.", "post_quant_conv.", "quantize.embedding.weight")

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        entries = ("model", "state_dict")
        return State(checkpoint.tensors(*entries), kept=checkpoint.entry(*entries))

    @override
    def recipe(self, state: State) -> Sequence[str]:
        return ["experiment=mgvq", "regularizer=none"]  # the public code has masking off

    @override
    def settings(self, state: State, config: Config) -> Config:
        latent_width, share = state.shape("post_quant_conv.weight")[:2]
        groups = latent_width // share
        codes, dim = state.shape(_CODES)
        if codes % groups or dim * groups != latent_width:
            raise TableError(f"{_CODES} of {codes} x {dim} is no codebook for each of {groups} groups of {share}")
        part = {**config["quantizer"]["parts"][0], "codebook_size": codes // groups, "dim": dim}
        common = {"latent_width": latent_width, "groups": groups, "head_width": _HEAD_WIDTH}
        state.assume(f"attention: heads of {_HEAD_WIDTH} channels, as in the public code")
        return {
            **config,
            "encoder": {**config["encoder"], **_sizes(state, "encoder"), **common},
            "quantizer": {**config["quantizer"], "parts": [part] * groups},
            "decoder": {**config["decoder"], **_sizes(state, "decoder"), **common},
        }

    @override
    def table(self, config: Config) -> Table:
        targets = tuple(f"quantizer.parts.{part}.weight" for part in range(len(config["quantizer"]["parts"])))
        rules: list[Rule] = [
            *(Rename(source, target) for source, target in _ENDS.items()),
            Split(_CODES, targets),
            Leave("quantizer.parts.*.usage", "running use of the codes, for restarts"),
            Leave("quantizer.parts.*.restarts", "number of restarts"),
            Drop("quantize.codebook_used", "window of used codes"),
            Drop("quantize.embed_prob", "running use of the codes, for restarts"),
            Drop("*.norm.num_batches_tracked", "number of batches"),
        ]
        return Table([*rules, *_levels("encoder", config["encoder"]), *_levels("decoder", config["decoder"])])


def _first(part: str, level: int, levels: int) -> int:
    """Where the blocks of a level begin: in the decoder what doubles the resolution comes before them."""
    return 0 if part == "encoder" or level == levels else 1


def _sizes(state: State, part: str) -> Config:
    """Channels, blocks and kinds of the levels of a part; level 0 of the public code, at full resolution, is empty."""
    levels = state.count(f"{part}.stages.*.op_list.")
    widths, depths, transformers = [], [], 0
    for level in range(1, levels + 1):
        stage, first = f"{part}.stages.{level}.op_list", _first(part, level, levels)
        attention = f"{stage}.{first}.context_module.main.qkv.conv.weight"
        if attention in state.tensors:
            widths.append(state.shape(attention)[1])
            depths.append(state.count(f"{stage}.*.context_module."))
            transformers += 1
        else:
            widths.append(state.shape(f"{stage}.{first}.main.conv1.conv.weight")[0])
            depths.append(state.count(f"{stage}.*.main.conv1."))
    multipliers = [width // widths[0] for width in widths]
    return {"channels": widths[0], "multipliers": multipliers, "depths": depths, "transformers": transformers}


def _levels(part: str, settings: Config) -> list[Rule]:
    rules: list[Rule] = []
    levels = len(settings["depths"])
    for level, depth in enumerate(settings["depths"], 1):
        place = level - 1 if part == "encoder" else levels - level
        stage, target = f"{part}.stages.{level}.op_list", f"{part}.levels.{place}"
        for block in range(depth):
            source = f"{stage}.{block + _first(part, level, levels)}"
            if level > levels - settings["transformers"]:
                rules += named(_ATTENTION, f"{source}.context_module.main", f"{target}.{2 * block}")
                rules += named(_GATED, f"{source}.local_module.main", f"{target}.{2 * block + 1}")
            else:
                rules += named(_RESIDUAL, f"{source}.main", f"{target}.{block}")
        if level < levels:
            encoder = part == "encoder"
            resampler = f"downsamplers.{place}" if encoder else f"upsamplers.{place - 1}"
            rules.append(Rename(f"{stage}.{depth if encoder else 0}.main.conv.conv", f"{part}.{resampler}.conv"))
    return rules
