"""Checkpoints of ALIT and KARL, on MAGE's VQGAN, which lies in them."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from math import isqrt
from typing import ClassVar

from typing_extensions import override

from imtok.zoo.blocks import named, self_attention_blocks
from imtok.zoo.convolutions import ModuleNames, decoder_rules, encoder_rules
from imtok.zoo.copies import Twice, twice
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.layouts import Rearrange, Split
from imtok.zoo.rules import Drop, Leave, Rename, Rule
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table, TableError

_BASE = "base_tokenizer.vqgan"
_LATENTS, _TIMES = "latent_tokens", "decoder_latent_tokens_timestep_embed"
_MOST, _SIDE = 256, 16  # latents that KARL's code asks for at most, and rows of patches that it reads
_MAGE = ModuleNames("down", "up", "block", "", "upsample.conv", ("mid.block_1", "mid.block_2"))
_NET = {"attention": "none", "adaptive_norm": "none", "downsample": "none", "middle": ["residual"] * 2}
_NARROWEST = 128  # channels from which on norms of maps have 32 groups in imtok as in every public net
_WIDE = (1024, 8)  # width and depth of the "small" nets, whose heads are of 128 channels


class _OnMAGE(CheckpointSource):
    """What ALIT and KARL share: trunks, the quantizer, and a VQGAN whose decoder imtok has in decoder and space."""

    keys = ("heads",)
    names: ClassVar[dict[str, str]]

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        tensors = checkpoint.tensors("ema", "model")
        if f"{_BASE}.encoder.conv_in.weight" in tensors and "quantize.embedding.weight" not in tensors:
            raise TableError("its latents are continuous, and imtok reads this net with codes alone")
        return State(tensors, kept=checkpoint.entry("ema", "model"))

    @override
    def recipe(self, state: State) -> Sequence[str]:
        return [f"experiment={self.name}", "space.weights=null", "decoder.weights=null"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        space = _space(state)
        codes, dim = state.shape("quantize.embedding.weight")
        parts = {
            "encoder": {**config["encoder"], **_trunk(state, "encoder"), "latents": state.shape("latent_tokens")[0]},
            "quantizer": {**config["quantizer"], "codebook_size": codes, "dim": dim},
            "decoder": {**config["decoder"], **_trunk(state, "decoder"), **space},
            "space": {**config["space"], **space},
        }
        return self.placed(state, {**config, **parts}, 2 ** (len(space["multipliers"]) - 1))

    @abstractmethod
    def placed(self, state: State, config: Config, factor: int) -> Config:
        """The config with what its positions tell; ``factor`` = pixels per position."""

    @override
    def table(self, config: Config) -> Table:
        net = _NET | config["space"]
        rules: list[Rule] = [
            *encoder_rules(_MAGE, net, f"{_BASE}.encoder", "space.encoder"),
            *(Rename(source, target) for source, target in self.names.items()),
            *self.placements((config["image_size"] // 2 ** (len(net["multipliers"]) - 1)) ** 2),
            Rename("patch_embed", "encoder.base.patches"),
            Rename("pre_quantizer_mlp", "encoder.project"),
            Rename("encoder_ln_pre", "encoder.norm_in"),
            Rearrange("decoder_mask_token", "decoder.mask_token", "1 1 d", "1 d"),
            *named({"ln_pre": "norm_in", "ln_post": "norm_out", "ffn": "head"}, "decoder", "decoder"),
            Rename("quantize.embedding.weight", "quantizer.weight"),
            Leave("quantizer.usage", "running use of the codes, for restarts"),
            Leave("quantizer.restarts", "number of restarts"),
            Drop("gan_losses.*", "critics and perceptual losses"),
            Twice(
                Rename(f"{_BASE}.quantize.embedding.weight", "space.codebook"),
                Rename(f"{_BASE}.quantize.embedding.weight", "decoder.codebook.weight"),
            ),
        ]
        for part in ("encoder", "decoder"):
            rules += self_attention_blocks(f"{part}.transformer", f"{part}.trunk", config[part]["depth"])
        places = (decoder_rules(_MAGE, net, f"{_BASE}.decoder", place) for place in ("space.decoder", "decoder.pixels"))
        return Table(rules + twice(*places))

    @abstractmethod
    def placements(self, grid: int) -> list[Rule]:
        """What becomes of positions."""


class ALIT(_OnMAGE):
    """ALIT on MAGE's VQGAN, of the second stage. Its code encodes with random halting, which imtok does not.

    Only the second stage has critics. A file without them may be of the first, whose code decodes codes that it draws.
    """

    name = "alit"
    title = "ALIT (arXiv 2411.02393)"
    marks = ("timestep_embedding", "encoder_ln_recursive.", f"{_BASE}.")
    names: ClassVar[dict[str, str]] = {
        "latent_tokens": "encoder.queries",
        "latent_token_positional_embedding": "encoder.query_positions",
        "timestep_embedding": "encoder.times",
        "encoder_class_embedding": "encoder.class_token",
        "encoder_ln_recursive": "encoder.norm_grow",
        "encoder_ln_post": "encoder.norm_out",
        "decoder_class_embedding": "decoder.class_token",
        "decoder.decoder_embed": "decoder.embed",
        "decoder.latent_token_positional_embedding": "decoder.latent_positions",
    }

    @override
    def placed(self, state: State, config: Config, factor: int) -> Config:
        if not any(name.startswith("gan_losses.") for name in state.tensors):
            state.assume(
                "no critics are in it: if it is of stage 1, the public code draws codes where imtok takes their mean"
            )
        rollouts = state.shape("timestep_embedding")[0]
        side = isqrt(state.shape("encoder_positional_embedding")[0] - 1) * factor
        return {**config, "encoder": {**config["encoder"], "rollouts": rollouts}, "image_size": side}

    @override
    def placements(self, grid: int) -> list[Rule]:
        tables = [
            Split(f"{part}_positional_embedding", (f"{part}.class_position", f"{part}.positions.table"), (1, grid))
            for part in ("encoder", "decoder")
        ]
        return [*tables, Rearrange("encoder_mask_token", "encoder.missing", "1 1 d", "1 d")]


class KARL(_OnMAGE):
    """KARL on MAGE's VQGAN, of the second stage, with as many latents as the recipe has: its code never asks for more.

    That code reads 256 patches of an image, or twice as many in a wide one, and samples their positions off a map.
    """

    name = "karl"
    title = "KARL (arXiv 2507.07995)"
    marks = ("rec_loss_embeddings", "halting_mlp.", f"{_BASE}.")
    names: ClassVar[dict[str, str]] = {
        _LATENTS: "encoder.queries",
        "rec_loss_embeddings": "encoder.wanted",
        "encoder_ln_post": "encoder.norm_out",
        "encoder_ln_post_halt": "encoder.halting.0",
        "halting_mlp.0": "encoder.halting.1",
        "halting_mlp.2": "encoder.halting.3",
        "decoder_embed": "decoder.embed",
        _TIMES: "decoder.latent_positions",
    }

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        state = super().open(checkpoint)
        cut = {name: state.tensors[name][:_MOST] for name in (_LATENTS, _TIMES) if name in state.tensors}
        if any(len(state.tensors[name]) > _MOST for name in cut):
            state.assume(f"{_MOST} latents of {len(state.tensors[_LATENTS])}: the public code asks for no more")
        return replace(state, tensors={**state.tensors, **cut})

    @override
    def placed(self, state: State, config: Config, factor: int) -> Config:
        return {**config, "image_size": _SIDE * factor}

    @override
    def placements(self, grid: int) -> list[Rule]:
        return [
            Rearrange(f"{part}_positional_embedding", f"{part}.positions.map", "d h w", "h w d")
            for part in ("encoder", "decoder")
        ]


def _trunk(state: State, part: str) -> Config:
    width, depth = state.shape(f"{part}.transformer.0.ln_1.weight")[0], state.count(f"{part}.transformer.*.")
    if (width, depth) == _WIDE and state.given.get("heads") is None:
        state.assume(f"{part}: 8 heads of 128 channels, as in the published nets of this size (heads=NUMBER)")
        return {"width": width, "depth": depth, "heads": 8}
    return {"width": width, "depth": depth, "heads": state.heads(width, part)}


def _space(state: State) -> Config:
    """The sizes of the VQGAN.

    Raises:
        TableError: If it is narrower than any public one.
    """
    levels = state.count(f"{_BASE}.encoder.down.*.")
    widths = [state.shape(f"{_BASE}.encoder.down.{level}.block.0.conv2.weight")[0] for level in range(levels)]
    channels = state.shape(f"{_BASE}.encoder.conv_in.weight")[0]
    if min(channels, *widths) < _NARROWEST:
        raise TableError(f"its VQGAN must have at least {_NARROWEST} channels, as that of MAGE, got {channels}")
    codes, dim = state.shape(f"{_BASE}.quantize.embedding.weight")
    blocks = state.count(f"{_BASE}.encoder.down.0.block.*.")
    multipliers = [width // channels for width in widths]
    return {"channels": channels, "multipliers": multipliers, "blocks": blocks, "codes": codes, "code_dim": dim}
