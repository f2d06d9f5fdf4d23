"""Checkpoints of CNNs whose codes quantize what earlier codes left over: RQ-VAE over depths, VAR over scales."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor
from typing_extensions import override

from imtok.zoo.cnn import PROJECTIONS, TAMING, VQ_STATE
from imtok.zoo.convolutions import decoder_rules, encoder_rules, sizes
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.rules import Drop, Leave, Rename
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table, TableError

_VAR = replace(TAMING, fused=True)
_CODES = "quantize.embedding.weight"
_PHI = "quantize.quant_resi.qresi_ls"
_HITS = "quantize.ema_vocab_hit_SV"
_TABLES = "quantizer.codebooks"
_ENTRIES = ("state_dict", "state_dict_ema")  # the public generators read the first also where both are there


class VAR(CheckpointSource):
    """VAR's multi-scale VQVAE, whose file is a state dict."""

    name = "var"
    title = "the VQVAE of VAR (arXiv 2404.02905)"
    marks = ("encoder.down.*.block.", "encoder.mid.block_1.", _CODES, "quantize.quant_resi.")
    keys = ("groups",)

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        return State(checkpoint.tensors())

    @override
    def recipe(self, state: State) -> Sequence[str]:
        return ["experiment=var"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        scales = config["quantizer"]["sizes"]
        if _HITS in state.tensors and len(state.tensors[_HITS]) != len(scales):
            raise TableError(f"it has {len(state.tensors[_HITS])} scales, and the published model has {len(scales)}")
        state.assume(f"scales with {', '.join(map(str, scales))} codes a side, as published")
        config = sizes(state, _VAR, config)
        kernel = {"latent_kernel": state.shape("quant_conv.weight")[-1]}
        codes, dim = state.shape(_CODES)
        quantizer = {
            **config["quantizer"],
            "quantizer": {**config["quantizer"]["quantizer"], "codebook_size": codes, "dim": dim},
            "convolutions": state.count(f"{_PHI}.*."),
        }
        parts = {part: {**config[part], **kernel} for part in ("encoder", "decoder")}
        return {**config, **parts, "quantizer": quantizer, "image_size": _side(config, scales)}

    @override
    def table(self, config: Config) -> Table:
        side = _side(config, config["quantizer"]["sizes"])
        if config["image_size"] != side:
            raise TableError(f"its scales fill images of {side} pixels and no others; leave out image_size")
        nets = encoder_rules(_VAR, config["encoder"]) + decoder_rules(_VAR, config["decoder"])
        return Table(
            [
                *nets,
                *PROJECTIONS,
                Rename(_CODES, "quantizer.quantizer.weight"),
                Rename(_PHI, "quantizer.convolutions"),
                *(replace(rule, pattern=f"quantizer.{rule.pattern}") for rule in VQ_STATE),
                Drop(_HITS, "running use of the codes"),
            ]
        )


class RQVAE(CheckpointSource):
    """RQ-VAE of RQ-Transformer, with one codebook for all depths or one for each.

    The codes are the file's table, which its code writes anew after each step. The averages that it is made of are
    dropped: here they start as they do for any other table of codes.
    """

    name = "rq_vae"
    title = "RQ-VAE of RQ-Transformer (arXiv 2203.01941)"
    marks = ("encoder.down.*.block.", "encoder.mid.block_1.", f"{_TABLES}.")
    keys = ("groups",)

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        tensors = checkpoint.tensors(*_ENTRIES)
        names = [key for key in tensors if key.startswith(f"{_TABLES}.") and key.endswith(".weight")]
        dropped = {}
        for name in names:
            tensors[name] = tensors[name][:-1]  # the last row stands for no code
        if names and all(_equal(tensors[name], tensors[names[0]]) for name in names):
            dropped = dict.fromkeys(names[1:], "codebook that all depths share")
            tensors = {key: value for key, value in tensors.items() if key not in dropped}
        return State(tensors, dropped, {"depth": len(names)}, kept=checkpoint.entry(*_ENTRIES))

    @override
    def recipe(self, state: State) -> Sequence[str]:
        return ["experiment=rq_vae"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        config = sizes(state, TAMING, config)
        stage = config["quantizer"]["stages"][0]
        tables = [state.shape(f"{_TABLES}.{depth}.weight") for depth in range(_number(state.tensors))]
        quantizer = {
            **config["quantizer"],
            "stages": [{**stage, "codebook_size": codes, "dim": dim} for codes, dim in tables],
            "depth": state.facts.get("depth", config["quantizer"]["depth"]),
        }
        return {**config, "quantizer": quantizer}

    @override
    def table(self, config: Config) -> Table:
        nets = encoder_rules(TAMING, config["encoder"]) + decoder_rules(TAMING, config["decoder"])
        stages = range(len(config["quantizer"]["stages"]))
        return Table(
            [
                *nets,
                *PROJECTIONS,
                *(Rename(f"{_TABLES}.{stage}.weight", f"quantizer.stages.{stage}.sums") for stage in stages),
                Drop(f"{_TABLES}.*.cluster_size_ema", "running counts, which start anew"),
                Drop(f"{_TABLES}.*.embed_ema", "running sums, which start anew"),
                Leave("quantizer.stages.*.counts", "running counts of the codes"),
                *(replace(rule, pattern=rule.pattern.replace(".", ".stages.*.", 1)) for rule in VQ_STATE),
            ]
        )


def _side(config: Config, scales: Sequence[int]) -> int:
    """Side of the images whose map the last scale fills, in pixels."""
    return scales[-1] * 2 ** (len(config["encoder"]["multipliers"]) - 1)


def _number(tensors: Mapping[str, Tensor]) -> int:
    """How many codebooks there are."""
    return sum(key.startswith(f"{_TABLES}.") and key.endswith(".weight") for key in tensors)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one == other).all())
