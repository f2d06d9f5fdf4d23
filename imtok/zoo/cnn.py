"""Checkpoints of convolutional tokenizers: LlamaGen, VQGAN (taming-transformers), latent diffusion and IBQ."""

from collections.abc import Sequence
from dataclasses import replace

from typing_extensions import override

from imtok.zoo.averages import averaged
from imtok.zoo.convolutions import ModuleNames, decoder_rules, encoder_rules, sizes
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.layouts import Rearrange
from imtok.zoo.rules import Drop, Leave, Rename, Rule
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table, TableError

LLAMAGEN = ModuleNames("conv_blocks", "conv_blocks", "res", "downsample.conv", "upsample.conv", ("mid.*",), True)
TAMING = ModuleNames(
    "down", "up", "block", "downsample.conv", "upsample.conv", ("mid.block_1", "mid.attn_1", "mid.block_2")
)

PROJECTIONS: list[Rule] = [
    Rename("quant_conv", "encoder.project"),
    Rename("post_quant_conv", "decoder.project"),
]
CODEBOOK = Rename("quantize.embedding.weight", "quantizer.weight")
VQ_STATE: list[Leave] = [
    Leave("quantizer.usage", "running use of the codes, for restarts"),
    Leave("quantizer.restarts", "number of restarts"),
]
_GUMBEL = "quantize.proj.weight"
_GUMBEL_CODES: list[Rule] = [
    Rearrange(_GUMBEL, "quantizer.logits.weight", "v d 1 1", "v d"),
    Rename("quantize.proj.bias", "quantizer.logits.bias"),
    Rename("quantize.embed.weight", "quantizer.weight"),
    Leave("quantizer.steps", "number of steps, for the temperature"),
]


class LlamaGen(CheckpointSource):
    """VQ-16 and VQ-8."""

    name = "llamagen"
    title = "LlamaGen VQ-16 and VQ-8 (arXiv 2406.06525)"
    marks = ("encoder.conv_blocks.", "quantize.embedding.weight")
    foreign = ("s2to1encoder.", "encode_transformer.", "base_tokenizer.")  # GigaTok, Hita and ALIT have such nets, too
    keys = ("groups", "normalize")
    layout = LLAMAGEN

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        entries = ("ema", "model", "state_dict")
        return State(checkpoint.tensors(*entries), facts=checkpoint.arguments("args"), kept=checkpoint.entry(*entries))

    @override
    def recipe(self, state: State) -> Sequence[str]:
        return ["experiment=llamagen_vq16"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        codes, width = state.shape("quantize.embedding.weight")
        config = sizes(state, self.layout, config)
        quantizer = {**config["quantizer"], "codebook_size": codes, "dim": width}
        if "normalize" in quantizer:
            quantizer["normalize"] = _normalize(state, quantizer["normalize"])
        return {**config, "quantizer": quantizer}

    @override
    def table(self, config: Config) -> Table:
        nets = encoder_rules(self.layout, config["encoder"]) + decoder_rules(self.layout, config["decoder"])
        return Table([*nets, *PROJECTIONS, CODEBOOK, *VQ_STATE, Drop("quantize.codebook_used", "window of used codes")])


def _normalize(state: State, published: bool) -> bool:
    """Whether latents and codes have unit length: as the user says, the file's own arguments, or the recipe."""
    told = state.given.get("normalize", state.facts.get("codebook_l2_norm"))
    if told is None:
        length = "unit length" if published else "any length"
        state.assume(f"codes of {length}, as published (normalize=true or false)")
        return published
    return bool(told)


class Taming(LlamaGen):
    """VQGANs of taming-transformers with a plain codebook or Gumbel-softmax, as its trainer saved them."""

    name = "taming"
    title = "VQGAN of taming-transformers (arXiv 2012.09841)"
    marks = ("encoder.down.*.block.", "encoder.mid.block_1.", "quantize.embed*.weight")
    foreign = ("quantize.quant_resi.", "base_tokenizer.")  # VAR has the same nets and scales, and ALIT holds such nets
    alike = (
        "IBQ without averages (source=ibq), which chooses codes by dot product, and latent diffusion (source=ldm), "
        "whose averages are taken"
    )
    keys = ("groups", "normalize")
    layout = TAMING

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        return State(checkpoint.tensors("state_dict"), kept=checkpoint.entry("state_dict"))

    @override
    def recipe(self, state: State) -> Sequence[str]:
        codes = "gumbel" if _GUMBEL in state.tensors else "vq_taming"
        return ["encoder=cnn_taming", f"quantizer={codes}", "decoder=cnn_taming", "image_size=256"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        middle = ["residual", "attention", "residual"]
        if "encoder.mid.attn_1.norm.weight" not in state.tensors:
            middle.remove("attention")
        config = {**config, **{part: {**config[part], "middle": middle} for part in ("encoder", "decoder")}}
        if _GUMBEL not in state.tensors:
            return super().settings(state, config)
        config = sizes(state, self.layout, config)
        read, (codes, width) = state.shape(_GUMBEL)[1], state.shape("quantize.embed.weight")
        if read != width:
            raise TableError(f"codes of {width} channels are chosen by {read} channels; imtok has one width for both")
        return {**config, "quantizer": {**config["quantizer"], "codebook_size": codes, "dim": width}}

    @override
    def table(self, config: Config) -> Table:
        layout = self.layout
        if len(config["encoder"]["middle"]) == 2:
            layout = replace(layout, middle=(layout.middle[0], layout.middle[-1]))
        nets = encoder_rules(layout, config["encoder"]) + decoder_rules(layout, config["decoder"])
        codes = _GUMBEL_CODES if "anneal" in config["quantizer"] else [CODEBOOK, *VQ_STATE]
        return Table([*nets, *PROJECTIONS, *codes, Drop("loss.*", "loss")])


class LDM(Taming):
    """VQ-f4, VQ-f8 and VQ-f16 of latent diffusion, with or without attention; averages where the file has them."""

    name = "ldm"
    title = "VQ autoencoders of latent diffusion (arXiv 2112.10752)"
    alike = "VQGAN of taming-transformers (source=taming), which is read in the same way, and in IBQ without averages"

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        return State(*averaged(checkpoint.tensors("state_dict")), kept=checkpoint.entry("state_dict"))


class IBQ(Taming):
    """IBQ of SEED-Voken, with averaged weights."""

    name = "ibq"
    title = "IBQ of SEED-Voken (arXiv 2412.02692)"
    marks = ("encoder.down.*.block.", "encoder.mid.attn_1.", "quantize.embedding.weight", "model_ema.")
    alike = (
        "VQGAN of taming-transformers and latent diffusion (source=taming, source=ldm), which choose the nearest code"
    )
    keys = ("groups",)

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        return State(*averaged(checkpoint.tensors("state_dict")), kept=checkpoint.entry("state_dict"))

    @override
    def recipe(self, state: State) -> Sequence[str]:
        return ["experiment=ibq"]

    @override
    def table(self, config: Config) -> Table:
        nets = encoder_rules(self.layout, config["encoder"]) + decoder_rules(self.layout, config["decoder"])
        return Table([*nets, *PROJECTIONS, CODEBOOK, Drop("loss.*", "loss")])
