"""Fabricated checkpoints: our own small tokenizers under the names, and in the files, of other code."""

import copy
from functools import cache

import torch
from zoo import writers
from zoo.case import CNN, CODES, TRUNK, Case
from zoo.transformer_containers import TRANSFORMERS

from imtok.command_line import compose_training
from imtok.tokenizer import Tokenizer
from imtok.zoo.importing import import_checkpoint
from imtok.zoo.registry import SOURCES
from imtok.zoo.rules import Leave

PARTS = ("encoder", "quantizer", "regularizer", "decoder", "space", "condition", "image_size")


MASKGIT = {"codes": 20, "code_dim": 12, "channels": 32, "multipliers": [1, 1, 2], "groups": 32}
MASKBIT = {"channels": 64, "multipliers": [1, 2, 2], "blocks": 1, "groups": 32}
TITOK = {"encoder": {**TRUNK, "latents": 6, "patch_size": 4}, "quantizer": CODES, "image_size": 16}
XQ = {**TRUNK, "patch_size": 4}
WITHOUT = ["encoder.weights=null", "decoder.weights=null"]
VQ_PART = {"_target_": "imtok.quantizers.vq.VQ", "dim": 6, "codebook_size": 50}
SCALES = {
    "_target_": "imtok.quantizers.multiscale.MultiScale",
    "quantizer": {
        "_target_": "imtok.quantizers.vq.VQ", "dim": 6, "codebook_size": 50, "normalize": False, "search": "cosine",
        "codebook_weight": 0.0, "commit_weight": 0.0,
    },
    "sizes": [1, 1, 2, 3, 3, 4, 5, 6, 8, 11], "convolutions": 4, "mix": 0.5, "codebook_weight": 1.0,
    "commit_weight": 2.5,
}  # fmt: skip
EMA_PART = {
    "_target_": "imtok.quantizers.ema_vq.EMAVQ", "dim": 6, "codebook_size": 50, "normalize": False,
    "commit_weight": 0.25, "decay": 0.99, "restart_below": 0.5, "kmeans_start": True,
}  # fmt: skip
RESIDUAL = {"stages": [EMA_PART]}
SIGNS = {
    "_target_": "imtok.quantizers.multiscale.MultiScale",
    "quantizer": {
        "_target_": "imtok.quantizers.bsq.BSQ", "slot_bits": [5], "commit_weight": 0.0, "entropy_weight": 0.0,
        "temperature": 1.0,
    },
    "sizes": [1, 1, 2, 3, 3, 4, 5, 6, 8, 11], "convolutions": 4, "mix": 0.5, "codebook_weight": 1.0,
    "commit_weight": 0.25, "normalize": True, "entropy_weight": 0.1,
}  # fmt: skip
GIGATOK = {"groups": 32, "channels": 32, "multipliers": [1, 2], "latent_channels": 16, **TRUNK}
CASES = {
    "llamagen": Case(
        ["experiment=llamagen_vq16"], {"encoder": CNN, "decoder": CNN, "quantizer": CODES}, "vq.pt", writers.llamagen
    ),
    "taming": Case(
        ["encoder=cnn_taming", "quantizer=vq_taming", "decoder=cnn_taming", "image_size=256"],
        {"encoder": CNN, "decoder": CNN, "quantizer": CODES},
        "last.ckpt",
        writers.taming,
    ),
    "taming with Gumbel-softmax": Case(
        ["encoder=cnn_taming", "quantizer=gumbel", "decoder=cnn_taming", "image_size=256"],
        {
            "encoder": CNN | {"latent_channels": 8},
            "decoder": CNN | {"latent_channels": 8},
            "quantizer": CODES | {"dim": 8},
        },
        "last.ckpt",
        writers.taming,
    ),
    "ldm": Case(
        ["encoder=cnn_taming", "quantizer=vq_taming", "decoder=cnn_taming", "image_size=256"],
        {
            "encoder": CNN | {"latent_channels": 3, "attention": "none", "middle": ["residual"] * 2},
            "decoder": CNN | {"latent_channels": 3, "attention": "none", "middle": ["residual"] * 2},
            "quantizer": CODES | {"dim": 3},
        },
        "model.ckpt",
        writers.taming,
    ),
    "diffusers": Case(
        ["encoder=cnn_taming", "quantizer=vq_taming", "decoder=cnn_taming", "image_size=256"],
        {
            "encoder": CNN | {"latent_channels": 4, "attention": [0, 1], "groups": 8},
            "decoder": CNN | {"latent_channels": 4, "attention": [0, 1], "groups": 8},
            "quantizer": CODES | {"dim": 6},
        },
        "diffusion_pytorch_model.safetensors",
        writers.diffusers,
    ),
    "diffusers without attention": Case(
        ["encoder=cnn_taming", "quantizer=vq_taming", "decoder=cnn_taming", "image_size=256"],
        {
            "encoder": CNN | {"latent_channels": 3, "attention": "none", "middle": ["residual"] * 2, "groups": 8},
            "decoder": CNN | {"latent_channels": 3, "attention": "none", "middle": ["residual"] * 2, "groups": 8},
            "quantizer": CODES | {"dim": 3},
        },
        "diffusion_pytorch_model.safetensors",
        writers.diffusers,
    ),
    "ibq": Case(
        ["experiment=ibq"], {"encoder": CNN, "decoder": CNN, "quantizer": CODES}, "last.ckpt", writers.averages
    ),
    "open_magvit2": Case(
        ["experiment=open_magvit2"], {"encoder": CNN, "decoder": CNN}, "last.ckpt", writers.averages
    ),
    "wetok": Case(["experiment=wetok"], {"encoder": CNN, "decoder": CNN}, "last.ckpt", writers.averages),
    "wetok generative": Case(
        ["experiment=wetok_generative"],
        {"encoder": CNN, "decoder": CNN, "quantizer": {"groups": 8}},
        "epoch=3.ckpt",
        writers.finetuned,
    ),
    "simvq": Case(
        ["experiment=simvq"], {"encoder": CNN, "decoder": CNN, "quantizer": CODES | {"dim": 6}}, "a.ckpt", writers.simvq
    ),
    "rq_vae": Case(
        ["experiment=rq_vae"],
        {"encoder": CNN | {"latent_channels": 8}, "decoder": CNN | {"latent_channels": 8}, "quantizer": RESIDUAL},
        "model.pt",
        writers.rq_vae,
    ),
    "rq_vae with a codebook for each depth": Case(
        ["experiment=rq_vae"],
        {
            "encoder": CNN | {"latent_channels": 8},
            "decoder": CNN | {"latent_channels": 8},
            "quantizer": {"stages": [EMA_PART, EMA_PART | {"codebook_size": 40}], "depth": 2},
        },
        "model.pt",
        writers.rq_vae,
    ),
    "var": Case(
        ["experiment=var"],
        {
            "encoder": CNN | {"latent_channels": 6},
            "decoder": CNN | {"latent_channels": 6},
            "quantizer": {"quantizer": CODES | {"dim": 6}},
            "image_size": 32,
        },
        "vae_ch160v4096z32.pth",
        writers.var,
    ),
    "maskgit_vqgan": Case(
        ["experiment=maskgit_vqgan"],
        {"encoder": CNN, "decoder": CNN, "quantizer": CODES | {"dim": 12}},
        "maskgit-vqgan-imagenet-f16-256.bin",
        writers.flat,
    ),
    "maskgit_vqgan of maskbit": Case(
        ["experiment=maskgit_vqgan"],
        {"encoder": MASKBIT, "decoder": MASKBIT, "quantizer": CODES | {"dim": 12}},
        "maskgit_tokenizer.bin",
        writers.maskbit,
    ),
    "maskbit": Case(
        ["experiment=maskbit"],
        {"encoder": CNN, "decoder": CNN, "quantizer": {"slot_bits": [6]}},
        "maskbit_tokenizer_14bit.bin",
        writers.bits,
    ),
    "maskbit with a codebook": Case(
        ["experiment=vqgan_plus"],
        {"encoder": CNN, "decoder": CNN, "quantizer": CODES | {"dim": 12}},
        "vqgan_plus_12bit.bin",
        writers.flat,
    ),
    "titok": Case(
        ["experiment=titok_l32"], TITOK | {"decoder": TRUNK | MASKGIT | {"weights": "random"}}, "a.bin", writers.flat
    ),
    "titok one-stage": Case(
        ["experiment=titok_bl64"], TITOK | {"decoder": TRUNK | {"patch_size": 4}}, "model.safetensors", writers.hub
    ),
    "titok with text": Case(
        ["experiment=ta_titok"], TITOK | {"decoder": TRUNK | {"patch_size": 4}}, "model.safetensors", writers.hub
    ),
    "titok continuous": Case(
        ["experiment=titok_bl64", "quantizer=gaussian"],
        TITOK | {"decoder": TRUNK | {"patch_size": 4}, "quantizer": {"dim": 5}},
        "titok_ll32_vae_c16.bin",
        writers.flat,
    ),
    "titok continuous with text": Case(
        ["experiment=ta_titok_kl"],
        TITOK | {"decoder": TRUNK | {"patch_size": 4}, "quantizer": {"dim": 5}},
        "model.safetensors",
        writers.hub,
    ),
    "one_d_piece": Case(
        ["experiment=one_d_piece_l256"],
        TITOK | {"decoder": TRUNK | MASKGIT | {"weights": "random"}},
        "model.safetensors",
        writers.hub,
    ),
    "gigatok": Case(
        ["experiment=gigatok_xlxxl"],
        {"encoder": GIGATOK | {"latents": 8}, "decoder": GIGATOK, "quantizer": CODES, "image_size": 8},
        "model.pt",
        writers.gigatok,
    ),
    "gigatok with redundant latents": Case(
        ["experiment=retok"],
        {
            "encoder": GIGATOK | {"latents": 8, "redundant": 3},
            "decoder": GIGATOK | {"redundant": 3},
            "quantizer": CODES,
            "image_size": 8,
        },
        "model.pt",
        writers.gigatok,
    ),
    "flextok": Case(
        ["experiment=flextok_d12", "space.weights=random"],
        {
            "encoder": {**TRUNK, "latents": 6},
            "decoder": {**TRUNK, "steps": 20},
            "space": {"dim": 4, "channels": 32, "groups": 32, "multipliers": [1, 2], "blocks": 1, "scale": 0.5},
            "image_size": 16,
        },
        "model.safetensors",
        writers.flextok,
    ),
    "bsq_vit": Case(
        ["experiment=bsq_vit"],
        {"encoder": {**TRUNK, "patch_size": 4}, "decoder": {**TRUNK, "patch_size": 4, "hidden": 24}, "image_size": 16},
        "checkpoint.pt",
        writers.bsq_vit,
    ),
    "vfmtok": Case(
        ["experiment=vfmtok", "encoder.net.weights=null"],
        {
            "encoder": {
                "net": {"width": 64, "depth": 4, "heads": 1, "layers": [0, 1, 2, 3]},
                "grid": 3, "width": 64, "depth": 2, "heads": 1, "points": 2, "hidden": 24,
            },
            "decoder": {
                "feature_dim": 64, **TRUNK, "hidden": 24, "channels": 32, "groups": 32,
                "multipliers": [1, 2], "blocks": 1,
            },
            "quantizer": CODES | {"dim": 6},
            "image_size": 56,
        },
        "vfmtok-tokenizer.pt",
        writers.vfmtok,
    ),
    "xqgan": Case(
        ["experiment=robusttok", *WITHOUT],
        {"encoder": XQ | {"latents": 9}, "decoder": XQ, "quantizer": CODES | {"dim": 6}, "image_size": 16},
        "RobustTok-zero.pt",
        writers.xqgan,
    ),
    "xqgan with two branches": Case(
        ["experiment=imagefolder", "quantizer=imagefolder_vp2", "regularizer=none", *WITHOUT],
        {
            "encoder": XQ | {"latents": 16},
            "decoder": XQ,
            "quantizer": {"parts": [VQ_PART, VQ_PART]},
            "image_size": 16,
        },
        "best_ckpt.pt",
        writers.xqgan,
    ),
    "xqgan with scales": Case(
        ["experiment=imagefolder", *WITHOUT],
        {
            "encoder": XQ | {"latents": 121},
            "decoder": XQ,
            "quantizer": {"parts": [SCALES, SCALES]},
            "image_size": 16,
        },
        "imagenet-4096.pt",
        writers.xqgan,
    ),
    "xqgan with binary codes": Case(
        ["experiment=imagefolder", "quantizer=xqgan_msbr10p2", *WITHOUT],
        {
            "encoder": XQ | {"latents": 121},
            "decoder": XQ,
            "quantizer": {"parts": [SIGNS, SIGNS]},
            "image_size": 16,
        },
        "best_ckpt.pt",
        writers.xqgan,
    ),
    **TRANSFORMERS,
}  # fmt: skip


def source_of(name):
    """The source of a case."""
    return SOURCES[name.split()[0]]


@cache
def composed(overrides):
    """A training config, composed once for all tests."""
    return compose_training(overrides)


def compose(overrides):
    """A training config of one's own."""
    return copy.deepcopy(composed(tuple(overrides)))


def imported(name, path):
    return import_checkpoint(source_of(name), path, compose)


def published(overrides):
    """The tokenizer's part of a training config."""
    return {
        key: value
        for key, value in compose(overrides).items()
        if key in PARTS and value is not None and (value or key != "condition")
    }


def small_config(name):
    """The published config of a case with small numbers."""
    config = published(CASES[name].recipe)
    for part, value in CASES[name].changes.items():
        config[part] = merged(config[part], value)
    return config


def merged(old, new):
    """Plain values with others in their place, however deep."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return old | {key: merged(old.get(key), value) for key, value in new.items()}


def named_as(name, config, state):
    """A state dict of ours under the names of a case's source."""
    return source_of(name).table(config).inverse().convert(state).tensors


def fabricate(name, folder, config=None):
    """A small tokenizer, its weights under the source's names, and the file that holds them."""
    config = small_config(name) if config is None else config
    tokenizer = Tokenizer.from_config(config).eval()
    stay = [rule for rule in source_of(name).table(config).rules if isinstance(rule, Leave)]
    with torch.no_grad():
        for key, value in tokenizer.named_parameters():
            if not any(rule.stays(key) for rule in stay):
                value.normal_(std=0.3)
    for one, other in CASES[name].same.items():
        tokenizer.get_submodule(one).load_state_dict(tokenizer.get_submodule(other).state_dict())
    if CASES[name].same:
        tokenizer.decoder.codebook.weight.data.copy_(tokenizer.space.codebook)
    tensors = named_as(name, config, tokenizer.state_dict())
    path = folder / CASES[name].file
    CASES[name].write(tensors, path)
    return tokenizer, tensors, path
