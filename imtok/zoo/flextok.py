"""Checkpoints of FlexTok, with the frozen autoencoder that lies in them."""

import ast
from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

import torch
from typing_extensions import override

from imtok.nn.positions import sincos_positions
from imtok.zoo.blocks import named
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.kl_vae import modern, space_rules, space_settings
from imtok.zoo.layouts import Join, Rearrange, Reorder
from imtok.zoo.rules import Drop, Rule
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table, TableError

_VAE = "vae.vae."
_ENCODER, _DECODER = "encoder.module_dict.", "decoder.module_dict."
_TABLES = {"encoder": f"{_ENCODER}enc_posemb_module", "decoder": f"{_DECODER}dec_patches_posemb_module"}
# By the widths of encoder and decoder.
_RECIPES = {(768, 768): "flextok_d12", (1152, 1152): "flextok_d18", (1152, 1792): "flextok_d18_d28"}
# The published order is gate, gate, shift, scale, shift, scale of attention and MLP; ours shift, scale, gate of each.
_ORDER = (2, 3, 0, 4, 5, 1)


class FlexTok(CheckpointSource):
    """FlexTok d12-d12, d18-d18 and d18-d28, as one safetensors file whose header holds the config.

    The modules' names and their wiring are those that public code uses with the released files.
    """

    name = "flextok"
    title = "FlexTok (arXiv 2502.13967)"
    marks = ("encoder.module_dict.", "decoder.module_dict.")
    keys = ("heads", "groups")

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        tensors = {modern(key): value for key, value in checkpoint.tensors().items()}
        facts = {key: _literal(value) for key, value in checkpoint.metadata.items()}
        return State(tensors, facts=facts or checkpoint.beside())

    @override
    def recipe(self, state: State) -> Sequence[str]:
        widths = (_width(state, f"{_ENCODER}enc_transformer"), _width(state, f"{_DECODER}dec_transformer"))
        return [f"experiment={_RECIPES.get(widths, 'flextok_d12')}", "space.weights=random"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        space = space_settings(state, config["space"], _VAE)
        space["scale"] = _told(state.facts, "vae", "scaling_factor") or space["scale"]
        levels = _told(state.facts, "regularizer", "levels") or config["quantizer"]["levels"]
        latents = state.shape(f"{_ENCODER}enc_register_module.registers")[0]
        encoder = config["encoder"] | _trunk(state, f"{_ENCODER}enc_transformer") | {"latents": latents}
        encoder["patch_size"] = isqrt(state.shape(f"{_ENCODER}enc_patch_emb.patch_proj.weight")[1] // space["dim"])
        decoder = config["decoder"] | _trunk(state, f"{_DECODER}dec_transformer")
        decoder["patch_size"] = isqrt(
            state.shape(f"{_DECODER}dec_noise_patch_emb.patch_proj.weight")[1] // space["dim"]
        )
        rows = state.shape(f"{_DECODER}dec_transformer.blocks.0.adaLN_modulation.1.weight")[0]
        decoder["modulated_segments"] = rows // (6 * decoder["width"])
        side = config["image_size"]
        if (table := f"{_TABLES['encoder']}.posembs") in state.tensors:
            side = state.shape(table)[-1] * encoder["patch_size"] * 2 ** (len(space["multipliers"]) - 1)
        _check_positions(state)
        quantizer = {**config["quantizer"], "levels": list(levels)}
        parts = {"encoder": encoder, "quantizer": quantizer, "decoder": decoder, "space": space}
        return {**config, **parts, "image_size": side}

    @override
    def table(self, config: Config) -> Table:
        encoder = {
            "enc_patch_emb.patch_proj": "patch_embedding",
            "enc_register_module.registers": "registers",
            "enc_to_latents.proj": "project",
        }
        decoder = {
            "dec_from_latents.proj": "latent_embedding",
            "dec_nested_dropout.dropout_mask_token": "missing_vector",
            "dec_latent_dropout.nullcond": "missing_all",
            "dec_noise_patch_emb.patch_proj": "patch_embedding",
            "dec_time_embedder.mlp.0": "time_embedding.linear1",
            "dec_time_embedder.mlp.2": "time_embedding.linear2",
            "dec_to_patches.adaLN_modulation.1": "modulation.linear",
            "dec_to_patches.proj": "head",
        }
        latent_positions = f"{_DECODER}dec_registers_posemb_module.posembs"
        rules = [
            *named(encoder, _ENCODER[:-1], "encoder"),
            *named(decoder, _DECODER[:-1], "decoder"),
            Rearrange(latent_positions, "decoder.latent_positions", "1 1 d n", "n d"),
            *(Drop(f"{table}.posembs", "sines and cosines, computed here") for table in _TABLES.values()),
            Drop("vae.logvar", "loss of the autoencoder"),
            *space_rules(config["space"], _VAE),
        ]
        for part, source in (("encoder", f"{_ENCODER}enc_transformer"), ("decoder", f"{_DECODER}dec_transformer")):
            segments = config[part].get("modulated_segments", 0)
            rules += _blocks(f"{source}.blocks", f"{part}.trunk.blocks", config[part]["depth"], segments)
        return Table(rules)


def _literal(text: str) -> Any:
    """A value of the header: a Python literal, or else the text itself. Nothing in it is run."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _told(facts: Mapping[str, Any], part: str, name: str) -> Any:
    """An argument of a part in the stored config; None where it does not say."""
    section = facts.get(part)
    return section.get(name) if isinstance(section, Mapping) else None


def _width(state: State, trunk: str) -> int:
    return state.shape(f"{trunk}.blocks.0.attn.wq.weight")[0]


def _trunk(state: State, trunk: str) -> Config:
    width, part = _width(state, trunk), trunk.partition(".")[0]
    return {"width": width, "depth": state.count(f"{trunk}.blocks.*."), "heads": state.heads(width, part)}


def _blocks(source: str, target: str, depth: int, segments: int) -> list[Rule]:
    names = {
        "attn.proj": "attention.project",
        "mlp.fc1": "mlp.gate",
        "mlp.fc3": "mlp.value",
        "mlp.fc2": "mlp.out",
    }
    order = tuple(6 * segment + place for segment in range(segments) for place in _ORDER)
    rules: list[Rule] = []
    for block in range(depth):
        old, new = f"{source}.{block}", f"{target}.{block}"
        parts = tuple(f"{old}.attn.{part}.weight" for part in ("wq", "wk", "wv"))
        rules += [*named(names, old, new), Join(parts, f"{new}.attention.query_key_value.weight")]
        if segments:
            kinds = ("weight", "bias")
            linear = f"{new}.modulation.linear"
            rules += [Reorder(f"{old}.adaLN_modulation.1.{kind}", f"{linear}.{kind}", order) for kind in kinds]
    return rules


def _check_positions(state: State) -> None:
    """Stored positions must be what is computed in their place.

    Raises:
        TableError: If they are not.
    """
    for table in _TABLES.values():
        stored = state.tensors.get(f"{table}.posembs")
        if stored is None or stored.is_meta:
            continue
        flat = stored.flatten(2).mT[0] if stored.ndim == 4 else stored
        grid = (stored.shape[-2], stored.shape[-1])
        if stored.ndim != 4 or not torch.allclose(flat.float(), sincos_positions(grid, flat.shape[-1]), atol=1e-3):
            raise TableError(f"{table}.posembs must be sines and cosines of row and column, got others")
