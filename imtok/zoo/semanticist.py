"""Checkpoints of Semanticist, which leave out the frozen autoencoder that it draws with."""

from collections.abc import Sequence
from math import isqrt
from pathlib import Path

from torch import Tensor
from typing_extensions import override

from imtok.errors import InputError
from imtok.pretrained import read_tensors
from imtok.zoo.blocks import named
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.kl_vae import modern, space_rules, space_settings
from imtok.zoo.layouts import Rearrange, Split
from imtok.zoo.rules import Drop, Rename, Rule
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table

VAE = "diffusion_pytorch_model.safetensors"
_VAE = "vae."
_BLOCK = {
    "attn.qkv": "attention.query_key_value",
    "attn.proj": "attention.project",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}
_NORMS = {"norm1": "norm1", "norm2": "norm2"}
_PATCHES = {"encoder": "encoder.patch_embed.proj", "decoder": "dit.x_embedder.proj"}
_XL = 1152  # width of DiT-XL, which has 16 heads of 72 channels


class Semanticist(CheckpointSource):
    """Semanticist L and XL: the averages that its trainer saves. They hold no weights of MAR's autoencoder."""

    name = "semanticist"
    title = "Semanticist (arXiv 2503.08685)"
    marks = ("dit.autoenc_cond_embedder.", "encoder2slot.", "encoder.slot_embed")
    keys = ("heads", "groups")

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        tensors = checkpoint.tensors("state_dict")
        if "encoder.slot_embed" in tensors and not any(key.startswith(_VAE) for key in tensors):
            tensors |= {f"{_VAE}{key}": value for key, value in _autoencoder(checkpoint.path).items()}
        named = {modern(key) if key.startswith(_VAE) else key: value for key, value in tensors.items()}
        return State(named, kept=checkpoint.entry("state_dict"))

    @override
    def recipe(self, state: State) -> Sequence[str]:
        wide = state.shape(f"{_PATCHES['decoder']}.weight")[0] == _XL
        return ["experiment=semanticist", f"decoder=semanticist_{'xl' if wide else 'l'}", "space.weights=random"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        space = space_settings(state, config["space"], _VAE)
        latents, width = state.shape("encoder.slot_embed")[1:]
        patch_size = state.shape(f"{_PATCHES['encoder']}.weight")[-1]
        encoder = {
            "latents": latents,
            "width": width,
            "depth": state.count("encoder.blocks.*."),
            "heads": state.heads(width, "encoder"),
            "patch_size": patch_size,
        }
        drawn, patch = (state.shape(f"{_PATCHES['decoder']}.weight")[place] for place in (0, -1))
        decoder = {"width": drawn, "depth": state.count("dit.blocks.*."), "patch_size": patch}
        if drawn == _XL and state.given.get("heads") is None:
            state.assume("decoder: 16 heads of 72 channels, as in DiT-XL (heads=NUMBER)")
            decoder["heads"] = config["decoder"]["heads"]
        else:
            decoder["heads"] = state.heads(drawn, "decoder")
        return {
            **config,
            "encoder": {**config["encoder"], **encoder},
            "quantizer": {**config["quantizer"], "dim": state.shape("encoder2slot.weight")[0]},
            "decoder": {**config["decoder"], **decoder},
            "space": space,
            "image_size": isqrt(state.shape("encoder.pos_embed")[1] - 1 - latents) * patch_size,
        }

    @override
    def table(self, config: Config) -> Table:
        grid = (config["image_size"] // config["encoder"]["patch_size"]) ** 2
        places = ("encoder.class_positions", "encoder.positions.table", "encoder.register_positions")
        decoder = {
            "t_embedder.mlp.0": "time_embedding.linear1",
            "t_embedder.mlp.2": "time_embedding.linear2",
            "autoenc_cond_embedder": "latent_embedding",
            "final_layer.adaLN_modulation.1": "modulation.linear",
            "final_layer.linear": "head",
        }
        rules: list[Rule] = [
            Rearrange("encoder.cls_token", "encoder.class_tokens", "1 n d", "n d"),
            Rearrange("encoder.slot_embed", "encoder.registers", "1 n d", "n d"),
            Split("encoder.pos_embed", places, (1, grid, config["encoder"]["latents"]), "1 n d", "n d"),
            *named({"norm": "norm"}, "encoder", "encoder"),
            Rename("encoder2slot", "encoder.project"),
            Rearrange("dit.null_cond", "decoder.missing_vectors", "1 n d", "n d"),
            *named(decoder, "dit", "decoder"),
            *space_rules(config["space"], _VAE),
            Drop("dit.pos_embed", "sines and cosines, computed here"),
            Drop("dit.projector.*", "alignment with DINOv2, for training only"),
            Drop("repa_encoder.*", "the frozen teacher"),
            Drop("nested_sampler.arange", "numbers of latents"),
        ]
        for part, source in _PATCHES.items():
            side = config[part]["patch_size"]
            target = f"{part}.patch_embedding"
            rules += [
                Rearrange(f"{source}.weight", f"{target}.weight", "d c p q", "d (p q c)", {"p": side, "q": side}),
                Rename(f"{source}.bias", f"{target}.bias"),
            ]
        for block in range(config["encoder"]["depth"]):
            rules += named(_BLOCK | _NORMS, f"encoder.blocks.{block}", f"encoder.trunk.blocks.{block}")
        modulated = _BLOCK | {"adaLN_modulation.1": "modulation.linear"}
        for block in range(config["decoder"]["depth"]):
            rules += named(modulated, f"dit.blocks.{block}", f"decoder.trunk.blocks.{block}")
        return Table(rules)


def _autoencoder(path: Path) -> dict[str, Tensor]:
    """The weights of MAR's autoencoder from the file beside a checkpoint.

    Raises:
        InputError: If it is not there.
    """
    beside = path.parent / VAE
    if not beside.is_file():
        raise InputError(
            f"{path} leaves out the weights of MAR's autoencoder, which Semanticist draws with; put {VAE} of "
            "xwen99/mar-vae-kl16 beside it"
        )
    return read_tensors(beside)
