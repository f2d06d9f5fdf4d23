"""Checkpoints of TokenSet, whose nets are those of TiTok but for the positions of latents."""

from collections.abc import Sequence
from math import isqrt

from typing_extensions import override

from imtok.zoo.blocks import linear_of_convolution
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.rules import Rename
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table
from imtok.zoo.titok import CODE_RULES, MASK_TOKEN, pixel_rules, pixel_sizes, trunk_rules, trunk_sizes


class TokenSet(CheckpointSource):
    """TokenSet with 128 tokens, and of other sizes."""

    name = "tokenset"
    title = "TokenSet (arXiv 2503.16425)"
    marks = ("latent_tokens", "encoder.class_embedding", "decoder.ffn.2.", "pixel_decoder.up.")
    foreign = ("latent_token_positional_embedding",)  # TiTok has them
    keys = ("heads", "groups")

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        return State(checkpoint.tensors())

    @override
    def recipe(self, state: State) -> Sequence[str]:
        return ["experiment=tokenset"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        patch_size = state.shape("encoder.patch_embed.weight")[-1]
        latents = {"latents": state.shape("latent_tokens")[0], "patch_size": patch_size}
        features = {"feature_dim": state.shape("decoder.ffn.2.weight")[0]}
        codes, dim = state.shape("quantize.embedding.weight")
        return {
            **config,
            "encoder": {**config["encoder"], **trunk_sizes(state, "encoder"), **latents},
            "quantizer": {**config["quantizer"], "codebook_size": codes, "dim": dim},
            "decoder": {**config["decoder"], **trunk_sizes(state, "decoder"), **features, **pixel_sizes(state)},
            "image_size": isqrt(state.shape("encoder.positional_embedding")[0] - 1) * patch_size,
        }

    @override
    def table(self, config: Config) -> Table:
        grid = (config["image_size"] // config["encoder"]["patch_size"]) ** 2
        rules = [
            Rename("latent_tokens", "encoder.latents"),
            Rename("encoder.patch_embed", "encoder.patches"),
            *CODE_RULES,
            Rename("decoder.decoder_embed", "decoder.embed"),
            MASK_TOKEN,
            *linear_of_convolution("decoder.ffn.0", "decoder.head.0"),
            *linear_of_convolution("decoder.ffn.2", "decoder.head.2"),
            *pixel_rules(config["decoder"]),
        ]
        for part in ("encoder", "decoder"):
            rules += trunk_rules(part, config[part]["depth"], grid)
        return Table(rules)
