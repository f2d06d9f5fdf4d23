"""Checkpoints of UniWeTok, whose public code reads encoder and decoder alone."""

from collections.abc import Sequence

from typing_extensions import override

from imtok.zoo.averages import averaged
from imtok.zoo.blocks import named
from imtok.zoo.convolutions import ModuleNames, decoder_rules, encoder_rules, sizes
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.layouts import Split
from imtok.zoo.rules import Rename, Rule
from imtok.zoo.source import CheckpointSource, Config, State, counted_heads
from imtok.zoo.table import Table, TableError

_LAYOUT = ModuleNames("down", "up", "block", "downsample", "upsample.conv1", ("mid_block.*",))
# What the config of our nets does not say of their convolutions.
_FIXED = {"attention": "none", "middle": [], "downsample": "padded", "adaptive_norm": "levels"}
_BLOCK = {
    "attention_norm": "norm1",
    "attention.wqkv": "attention.query_key_value",
    "attention.wo": "attention.project",
    "ffn_norm": "norm2",
    "feed_forward.w2": "mlp.out",
}
_MIDDLES = {"encoder": "encoder.middle", "decoder": "decoder.middle.0"}
_ACTIVATED = Rename("encoder.norm_out", "encoder.norm_out.0")
_READ = ("encoder.", "decoder.", "model_ema.encoder", "model_ema.decoder", "model_ema.decay", "model_ema.num_updates")


class UniWeTok(CheckpointSource):
    """UniWeTok, as BitDance's ``autoencoder_uni`` reads it: averages where there are any, else live weights.

    That code takes what it needs of a file and leaves the rest of the training (critics, priors, projections).
    """

    name = "uniwetok"
    title = "UniWeTok (arXiv 2602.14178)"
    marks = ("encoder.mid_attn_blocks.", "decoder.adaptive.", "decoder.register_token.")
    keys = ("heads", "groups")

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        tensors = checkpoint.tensors("state_dict")
        read = {key: value for key, value in tensors.items() if key.startswith(_READ)}
        weights, dropped = averaged(read)
        dropped |= dict.fromkeys(tensors.keys() - read.keys(), "not read by the public code")
        return State(weights, dropped, kept=checkpoint.entry("state_dict"))

    @override
    def recipe(self, state: State) -> Sequence[str]:
        return ["experiment=uniwetok"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        config = sizes(state, _LAYOUT, config)
        for part in ("encoder", "decoder"):
            blocks = state.count(f"{part}.mid_attn_blocks.*.")
            config[part] = {**config[part], "attention_blocks": blocks, "heads": _heads(state, config[part]["heads"])}
        quantizer, bits = config["quantizer"], state.shape("encoder.conv_out.weight")[0]
        groups, rest = divmod(bits, quantizer["group_bits"])
        if rest:
            raise TableError(f"{bits} bits per token are no groups of {quantizer['group_bits']}")
        return {**config, "quantizer": {**quantizer, "groups": groups}}

    @override
    def table(self, config: Config) -> Table:
        plain = Rename("encoder.norm_out", "encoder.norm_out")  # no activation comes after it
        rules: list[Rule] = [
            *(plain if rule == _ACTIVATED else rule for rule in encoder_rules(_LAYOUT, _FIXED | config["encoder"])),
            *decoder_rules(_LAYOUT, _FIXED | config["decoder"]),
            Rename("decoder.mid_block", "decoder.middle.1"),
        ]
        for part, middle in _MIDDLES.items():
            rules.append(Rename(f"{part}.register_token.weight", f"{middle}.registers"))
            for block in range(config[part]["attention_blocks"]):
                source, target = f"{part}.mid_attn_blocks.{block}", f"{middle}.blocks.blocks.{block}"
                halves = (f"{target}.mlp.gate.weight", f"{target}.mlp.value.weight")
                rules += [*named(_BLOCK, source, target), Split(f"{source}.feed_forward.w1.weight", halves)]
        return Table(rules)


def _heads(state: State, published: int) -> int:
    """Attention heads, which no shape tells: as the user says, or as the public code has them."""
    given = state.given.get("heads")
    if given is None:
        state.assume(f"transformer: {counted_heads(published)}, as in the public code (heads=NUMBER)")
    return given or published
