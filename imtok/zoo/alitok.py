"""Checkpoints of AliTok, whose names are those of TiTok but for attention."""

from collections.abc import Sequence
from math import isqrt

from typing_extensions import override

from imtok.zoo.blocks import linear_of_convolution, named
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.rules import Rename, Rule
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table, TableError
from imtok.zoo.titok import CODE_RULES

_PREFIX = "decoder.conv_out_aux.weight"  # of the patches of the prefix, which only stage 1 has
_PARTS = {
    "latent_tokens": "encoder.latents",
    "encoder.latent_token_positional_embedding": "encoder.latent_positions",
    "encoder.patch_embed": "encoder.patches",
    "encoder.positional_embedding": "encoder.positions.table",
    "decoder.class_embedding": "decoder.class_tokens",
    "decoder.latent_token_positional_embedding": "decoder.positions",
    "decoder.decoder_embed": "decoder.embed",
    "decoder.conv_out": "decoder.patches.conv_out",
}
_BLOCK = {
    "ln_1": "norm1",
    "attn.in_proj": "attention.query_key_value",
    "attn.out_proj": "attention.project",
    "ln_2": "norm2",
    "mlp.c_fc": "mlp.0",
    "mlp.c_proj": "mlp.2",
}


class AliTok(CheckpointSource):
    """AliTok, and its first stage, whose causal decoder also writes patches of the prefix."""

    name = "alitok"
    title = "AliTok (arXiv 2506.05289)"
    marks = ("latent_tokens", "encoder.latent_token_positional_embedding", "encoder.transformer.*.attn.in_proj.weight")
    keys = ("heads",)

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        return State(checkpoint.tensors("model_state"), kept=checkpoint.entry("model_state"))

    @override
    def recipe(self, state: State) -> Sequence[str]:
        return [f"experiment={'alitok_stage1' if _PREFIX in state.tensors else 'alitok'}"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        patch_size = state.shape("encoder.patch_embed.weight")[-1]
        patches = state.shape("encoder.positional_embedding")[0]
        tokens = state.shape("latent_tokens")[0]
        if tokens < patches:
            raise TableError(f"latent_tokens must be at least the {patches} patches of the image, got {tokens}")
        codes, dim = state.shape("quantize.embedding.weight")
        return {
            **config,
            "encoder": {**config["encoder"], **_sizes(state, "encoder"), "prefix": tokens - patches},
            "quantizer": {**config["quantizer"], "codebook_size": codes, "dim": dim},
            "decoder": {
                **config["decoder"],
                **_sizes(state, "decoder"),
                "class_tokens": state.shape("decoder.class_embedding")[0],
            },
            "image_size": isqrt(patches) * patch_size,
        }

    @override
    def table(self, config: Config) -> Table:
        rules: list[Rule] = [Rename(source, target) for source, target in _PARTS.items()]
        rules += [*CODE_RULES, *linear_of_convolution("decoder.ffn.0", "decoder.patches.pixels")]
        if config["decoder"]["order"] == "causal":
            rules.append(Rename("decoder.conv_out_aux", "decoder.prefix.conv_out"))
            rules += linear_of_convolution("decoder.ffn_aux.0", "decoder.prefix.pixels")
        for part in ("encoder", "decoder"):
            rules += named({"ln_pre": "norm_in", "ln_post": "norm_out"}, part, part)
            for block in range(config[part]["depth"]):
                rules += named(_BLOCK, f"{part}.transformer.{block}", f"{part}.trunk.blocks.{block}")
        return Table(rules)


def _sizes(state: State, part: str) -> Config:
    """Width, depth, heads and patches of a part, which are the same in both."""
    width = state.shape(f"{part}.ln_pre.weight")[0]
    return {
        "width": width,
        "depth": state.count(f"{part}.transformer.*."),
        "heads": state.heads(width, part),
        "patch_size": state.shape("encoder.patch_embed.weight")[-1],
    }
