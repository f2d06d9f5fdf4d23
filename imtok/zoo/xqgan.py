"""Checkpoints of ImageFolder, XQ-GAN and RobustTok."""

from collections.abc import Sequence
from math import isqrt

import torch
from typing_extensions import override

from imtok.zoo.blocks import VIT_BLOCK, linear_of_convolution, named
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.layouts import Rearrange, Split
from imtok.zoo.rules import Drop, Leave, Rename, Rule
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table, TableError

_CONVOLUTIONS = "quant_resi.qresi_ls"
_WITHOUT = ["encoder.weights=null", "decoder.weights=null"]
_MAGNITUDES = "quantizes.0.scaler"
_ENTRIES = ("ema", "model", "state_dict")


class XQGAN(CheckpointSource):
    """RobustTok, ImageFolder, and V, VP2, MSVR and MSBR of XQ-GAN, whose nets are those of ImageFolder."""

    name = "xqgan"
    title = "ImageFolder (arXiv 2410.01756), XQ-GAN (arXiv 2412.01762) or RobustTok (arXiv 2503.08354)"
    marks = ("encoder.lvl_embed.weight",)
    keys = ("heads",)

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        return State(checkpoint.tensors(*_ENTRIES), kept=checkpoint.entry(*_ENTRIES))

    @override
    def recipe(self, state: State) -> Sequence[str]:
        if "quantize.embedding.weight" in state.tensors:
            return ["experiment=robusttok", *_WITHOUT]
        if _MAGNITUDES in state.tensors:
            return ["experiment=imagefolder", "quantizer=xqgan_msbr10p2", *_WITHOUT]
        if f"quantizes.0.{_CONVOLUTIONS}.0.weight" in state.tensors:
            return ["experiment=imagefolder", *_WITHOUT]
        return ["experiment=imagefolder", "quantizer=imagefolder_vp2", "regularizer=none", *_WITHOUT]

    @override
    def settings(self, state: State, config: Config) -> Config:
        branches, width = state.shape("encoder.lvl_embed.weight")
        branches, patch = branches - 1, state.shape("encoder.model.patch_embed.proj.weight")[-1]
        trunk = {"width": width, "heads": state.heads(width, "encoder and decoder"), "patch_size": patch}
        own = {"latents": state.shape("encoder.latent_tokens")[1] // branches, "branches": branches}
        quantizer = dict(config["quantizer"])
        if _MAGNITUDES in state.tensors:
            quantizer["parts"] = [_signs(quantizer["parts"][0], state, branch) for branch in range(branches)]
            quantizer["loss_weight"] = 1 / branches
        elif "parts" in quantizer:
            shapes = [state.shape(f"quantizes.{branch}.embedding.weight") for branch in range(branches)]
            part = quantizer["parts"][0]
            quantizer["parts"] = [_codebook(part, codes, dim) for codes, dim in shapes]
            quantizer["loss_weight"] = 1 / branches
        else:
            quantizer["codebook_size"], quantizer["dim"] = state.shape("quantize.embedding.weight")
        depths = [state.count(f"{part}.model.blocks.*.") for part in ("encoder", "decoder")]
        return {
            **config,
            "encoder": {**config["encoder"], **trunk, **own, "depth": depths[0]},
            "quantizer": quantizer,
            "decoder": {**config["decoder"], **trunk, "depth": depths[1]},
            "image_size": isqrt(state.shape("encoder.model.pos_embed")[1] - 1) * patch,
        }

    @override
    def table(self, config: Config) -> Table:
        grid = (config["image_size"] // config["encoder"]["patch_size"]) ** 2
        parts = len(config["quantizer"].get("parts", ()))
        scaled = any("quantizer" in part for part in config["quantizer"].get("parts", ()))
        inner = ".quantizer" if scaled else ""
        codebooks = [(f"quantizes.{part}", f"quantizer.parts.{part}{inner}") for part in range(parts)]
        rules: list[Rule] = [
            Rearrange("encoder.latent_tokens", "encoder.latents", "1 n d", "n d"),
            Rearrange("decoder.mask_token", "decoder.mask_token", "1 n d", "n d"),
            Rename("encoder.model.patch_embed.proj", "encoder.net.patches"),
            *linear_of_convolution("quant_conv", "encoder.project"),
            *linear_of_convolution("post_quant_conv", "decoder.embed"),
            Rename("decoder.to_pixel.model", "decoder.pixels"),
            Drop("semantic_model.*", "the frozen teacher"),
            Drop("detail_model.*", "the frozen teacher"),
            Drop("quantizes.*.scaler", "magnitudes of codes, computed here"),
            *(Drop(f"quantizes.{part}.ema_vocab_hit_SV", "counts of used codes") for part in range(parts)),
        ]
        if scaled:
            rules += [
                Rename(f"quantizes.{part}.{_CONVOLUTIONS}", f"quantizer.parts.{part}.convolutions")
                for part in range(parts)
            ]
        for part in ("encoder", "decoder"):
            rules += _net(part, config[part]["depth"], grid)
        if not parts:
            rules.append(Drop("quantize.ema_vocab_hit_SV", "counts of used codes"))
        for source, target in codebooks or [("quantize", "quantizer")]:
            rules += [
                Rename(f"{source}.embedding.weight", f"{target}.weight"),
                Leave(f"{target}.usage", "running use of the codes, for restarts"),
                Leave(f"{target}.restarts", "number of restarts"),
            ]
        return Table(rules)


def _signs(part: Config, state: State, branch: int) -> Config:
    """The section of one branch of binary codes, whose bits are as large at every scale.

    Raises:
        TableError: If the file says otherwise.
    """
    bits = state.shape("quant_conv.weight")[0]
    magnitudes = state.tensors.get(f"quantizes.{branch}.scaler", torch.empty(0))
    expected = torch.full((len(part["sizes"]),), bits**-0.5, device=magnitudes.device)
    if magnitudes.shape != expected.shape or not torch.allclose(magnitudes.float(), expected, atol=1e-5):
        raise TableError(
            f"quantizes.{branch}.scaler must be {len(expected)} times 1 / sqrt({bits}), the length of its binary codes"
        )
    return {**part, "quantizer": {**part["quantizer"], "slot_bits": [bits]}}


def _codebook(part: Config, codes: int, dim: int) -> Config:
    """The section of one branch."""
    sizes = {"codebook_size": codes, "dim": dim}
    return {**part, "quantizer": {**part["quantizer"], **sizes}} if "quantizer" in part else {**part, **sizes}


def _net(part: str, depth: int, grid: int) -> list[Rule]:
    """What becomes of one of the two vision transformers, which have one layout."""
    source, target = f"{part}.model", f"{part}.net"
    return [
        Rename(f"{part}.lvl_embed.weight", f"{part}.levels"),
        Drop(f"{part}.lvl1LC", "numbers of levels"),
        Rearrange(f"{source}.cls_token", f"{target}.class_token", "1 n d", "n d"),
        Split(
            f"{source}.pos_embed", (f"{target}.class_position", f"{target}.positions.table"), (1, grid), "1 n d", "n d"
        ),
        Rename(f"{source}.norm", f"{target}.norm"),
        *(
            rule
            for block in range(depth)
            for rule in named(VIT_BLOCK, f"{source}.blocks.{block}", f"{target}.trunk.blocks.{block}")
        ),
    ]
