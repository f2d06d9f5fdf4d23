"""Checkpoints of GigaTok and ReTok."""

from collections.abc import Sequence
from math import isqrt

from typing_extensions import override

from imtok.zoo.blocks import linear_of_convolution, named, qformer_blocks
from imtok.zoo.convolutions import ModuleNames, decoder_rules, encoder_rules, sizes
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.layouts import Join, Rearrange
from imtok.zoo.rules import Drop, Leave, Rename, Rule
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table

_LAYOUT = ModuleNames("conv_blocks", "conv_blocks", "res", "downsample.conv", "upsample.conv1", ("mid.*",), True)
_LATENTS = "latent_token_positional_embedding"
# By the widths of encoder and decoder.
_RECIPES = {(512, 512): "gigatok_ss", (512, 768): "gigatok_sb", (768, 1024): "gigatok_bl"}
_QFORMERS = {"encoder": "s2to1encoder", "decoder": "s1to2decoder"}
# What CNNEncoder and CNNDecoder are always given inside a Q-Former tokenizer.
_FIXED = {"attention": "none", "middle": ["residual"] * 2, "downsample": "padded_end", "adaptive_norm": "levels"}


class GigaTok(CheckpointSource):
    """GigaTok S-S, S-B, B-L and XL-XXL, and ReTok, which has redundant queries besides."""

    name = "gigatok"
    title = "GigaTok (arXiv 2504.08736) or ReTok (arXiv 2601.01535)"
    marks = ("s2to1encoder.", "s1to2decoder.")
    keys = ("heads", "groups")

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        entries = ("ema", "model", "state_dict")
        return State(checkpoint.tensors(*entries), kept=checkpoint.entry(*entries))

    @override
    def recipe(self, state: State) -> Sequence[str]:
        if f"s2to1encoder.{_LATENTS}_comp" in state.tensors:
            return ["experiment=retok"]
        encoder, decoder = (state.shape(f"{name}.{_LATENTS}")[-1] for name in _QFORMERS.values())
        return [f"experiment={_RECIPES.get((encoder, decoder), 'gigatok_xlxxl')}"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        config = sizes(state, _LAYOUT, config)
        for part, name in _QFORMERS.items():
            width = state.shape(f"{name}.{_LATENTS}")[-1]
            trunk = {"width": width, "depth": state.count(f"{name}.transformer.*."), "heads": state.heads(width, part)}
            if (comp := f"{name}.{_LATENTS}_comp") in state.tensors:
                trunk["redundant"] = state.shape(comp)[0]
            config[part] = {**config[part], **trunk}
        config["encoder"]["latents"] = state.shape(f"s2to1encoder.{_LATENTS}")[0]
        codes, dim = state.shape("quantize.embedding.weight")
        config["quantizer"] = {**config["quantizer"], "codebook_size": codes, "dim": dim}
        factor = 2 ** (len(config["encoder"]["multipliers"]) - 1)
        return config | {"image_size": isqrt(state.shape("s2to1encoder.positional_embedding")[0]) * factor}

    @override
    def table(self, config: Config) -> Table:
        rules: list[Rule] = [
            *encoder_rules(_LAYOUT, _FIXED | config["encoder"], "encoder", "encoder.cnn"),
            *decoder_rules(_LAYOUT, _FIXED | config["decoder"], "decoder", "decoder.cnn"),
            *named({"encoder_embed": "embed", "global_proj": "start"}, "s2to1encoder", "encoder"),
            *linear_of_convolution("s2to1encoder.conv_out", "encoder.out"),
            *named({"decoder_embed": "embed", "conv_out": "conv_out"}, "s1to2decoder", "decoder"),
            *linear_of_convolution("quant_conv", "encoder.project"),
            *linear_of_convolution("post_quant_conv", "decoder.project"),
            Rename("quantize.embedding.weight", "quantizer.weight"),
            Leave("quantizer.usage", "running use of the codes, for restarts"),
            Leave("quantizer.restarts", "number of restarts"),
            Drop("quantize.codebook_used", "window of used codes"),
            Drop("s1to2decoder.distill_mlp.*", "alignment with DINOv2, for training only"),
        ]
        for part, name in _QFORMERS.items():
            latents = (config["encoder"]["latents"], config[part].get("redundant", 0))
            rules += _qformer_rules(name, part, config[part]["depth"], latents)
        return Table(rules)


def _qformer_rules(source: str, target: str, depth: int, latents: tuple[int, int]) -> list[Rule]:
    positions, table = f"{source}.{_LATENTS}", f"{target}.latent_positions"
    both = (positions, f"{positions}_comp")
    return [
        *named({"ln_pre": "norm_in", "ln_post": "norm_out"}, source, target),
        Rearrange(f"{source}.positional_embedding", f"{target}.map_positions.table", "n 1 d", "n d"),
        Join(both, table, latents, "n 1 d", "n d") if latents[1] else Rearrange(positions, table, "n 1 d", "n d"),
        *qformer_blocks(f"{source}.transformer", f"{target}.qformer", depth),
    ]
