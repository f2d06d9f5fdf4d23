"""Fabricated checkpoints: our own small tokenizers under the names, and in the files, of other code."""

import copy
import json
from argparse import Namespace
from functools import cache

import torch
from safetensors.torch import save_file
from zoo.case import CNN, CODES, LOSS, TRUNK, Case, with_averages, write_flat
from zoo.later_containers import LATER

from imtok.command_line import compose_training
from imtok.nn.positions import sincos_positions
from imtok.tokenizer import Tokenizer
from imtok.zoo.registry import SOURCES
from imtok.zoo.rules import Leave
from imtok.zoo.vfmtok import DINOV2

PARTS = ("encoder", "quantizer", "regularizer", "decoder", "space", "condition", "image_size")


def write_llamagen(tensors, path):
    model = tensors | {"quantize.codebook_used": torch.zeros(9)}
    torch.save({"model": model, "optimizer": {"state": {0: {}}}, "steps": 3, "args": Namespace(lr=1e-4)}, path)


def write_gigatok(tensors, path):
    average = tensors | {"s1to2decoder.distill_mlp.0.weight": torch.zeros(2, 2)}
    live = {name: torch.zeros_like(value) for name, value in average.items()}
    torch.save({"model": live, "ema": average, "args": Namespace(lr=1e-4)}, path)


def write_taming(tensors, path):
    torch.save({"epoch": 3, "state_dict": tensors | LOSS, "optimizer_states": [{}]}, path)


def write_finetuned(tensors, path):
    """Its encoder is frozen and has no averages."""
    state = {name: value for name, value in with_averages(tensors).items() if not name.startswith("model_ema.encoder")}
    own = {name: value for name, value in tensors.items() if name.startswith("encoder.")}
    torch.save({"epoch": 3, "state_dict": state | own}, path)


def write_averages(tensors, path):
    torch.save({"epoch": 3, "state_dict": with_averages(tensors), "loops": {}}, path)


def write_simvq(tensors, path):
    """Its frozen codebook has no average."""
    state = with_averages(tensors)
    state |= {"quantize.embedding.weight": tensors["quantize.embedding.weight"]}
    del state["model_ema.quantizeembeddingweight"]
    torch.save({"epoch": 3, "state_dict": state}, path)


def write_hub(tensors, path):
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    legacy = "decoder.ffn.2.weight" in tensors
    facts = {"is_legacy": legacy, "use_l2_norm": legacy, "num_latent_tokens": len(tensors["latent_tokens"])}
    facts["quantize_mode"] = "vq" if "quantize.embedding.weight" in tensors else "vae"
    (path.parent / "config.json").write_text(json.dumps({"model": {"vq_model": facts}}))


def write_bsq_vit(tensors, path):
    counters = {"quantize.basis": torch.ones(3), "quantize.group_basis": torch.ones(1)}
    average = {f"module.module.{name}": value for name, value in (tensors | counters).items()}
    live = {f"module.{name}": torch.zeros_like(value) for name, value in (tensors | counters).items()}
    torch.save({"state_dict": live, "ema_state_dict": average, "args": Namespace(gpu=0)}, path)


def write_flextok(tensors, path):
    tables = {f"{part}.posembs": sincos(4, 64) for part in ("encoder.module_dict.enc_posemb_module",)}
    tables["decoder.module_dict.dec_patches_posemb_module.posembs"] = sincos(4, 64)
    facts = {
        "vae": {"scaling_factor": 0.5},
        "regularizer": {"levels": [8, 8, 8, 5, 5, 5]},
        "_target_": "flextok.FlexTok",
    }
    values = {name: value.contiguous() for name, value in (tensors | tables).items()}
    save_file(values, path, {name: str(value) for name, value in facts.items()})


def write_vfmtok(tensors, path):
    """The trainer leaves out the frozen net, which lies in a file of its own."""
    prefix = "encode_transformer.backbone.pretrained_encoder."
    net = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    own = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
    own["slot_quantize.codebook_used"] = torch.zeros(9)
    own["decode_transformer.register_tokens"] = torch.zeros(1, 4, 64)
    torch.save({"model": {name: value * 0 for name, value in own.items()}, "ema": own, "steps": 3}, path)
    torch.save(net | {"mask_token": torch.zeros(1, 64)}, path.parent / DINOV2)


def write_xqgan(tensors, path):
    """Usage and numbers of levels beside the weights, and the frozen teacher."""
    more = {f"{part}.lvl1LC": torch.zeros(1, 9, dtype=torch.int64) for part in ("encoder", "decoder")}
    names = [name for name in tensors if name.endswith(".embedding.weight")]
    more |= {name.replace("embedding.weight", "ema_vocab_hit_SV"): torch.zeros(9) for name in names}
    average = tensors | more | {"semantic_model.norm.weight": torch.ones(3)}
    live = {name: value * 0 for name, value in average.items()}
    torch.save({"model": live, "ema": average, "steps": 3, "args": Namespace(lr=1e-4)}, path)


def sincos(side, width):
    """The table of FlexTok for a grid of side x side, as its code stores it."""
    return sincos_positions((side, side), width).T.reshape(1, width, side, side)


MASKGIT = {"codes": 20, "code_dim": 12, "channels": 32, "multipliers": [1, 1, 2], "groups": 32}
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
GIGATOK = {"groups": 32, "channels": 32, "multipliers": [1, 2], "latent_channels": 16, **TRUNK}
CASES = {
    "llamagen": Case(
        ["experiment=llamagen_vq16"], {"encoder": CNN, "decoder": CNN, "quantizer": CODES}, "vq.pt", write_llamagen
    ),
    "taming": Case(
        ["encoder=cnn_taming", "quantizer=vq_taming", "decoder=cnn_taming", "image_size=256"],
        {"encoder": CNN, "decoder": CNN, "quantizer": CODES},
        "last.ckpt",
        write_taming,
    ),
    "taming with Gumbel-softmax": Case(
        ["encoder=cnn_taming", "quantizer=gumbel", "decoder=cnn_taming", "image_size=256"],
        {
            "encoder": CNN | {"latent_channels": 8},
            "decoder": CNN | {"latent_channels": 8},
            "quantizer": CODES | {"dim": 8},
        },
        "last.ckpt",
        write_taming,
    ),
    "ldm": Case(
        ["encoder=cnn_taming", "quantizer=vq_taming", "decoder=cnn_taming", "image_size=256"],
        {
            "encoder": CNN | {"latent_channels": 3, "attention": "none", "middle": ["residual"] * 2},
            "decoder": CNN | {"latent_channels": 3, "attention": "none", "middle": ["residual"] * 2},
            "quantizer": CODES | {"dim": 3},
        },
        "model.ckpt",
        write_taming,
    ),
    "ibq": Case(
        ["experiment=ibq"], {"encoder": CNN, "decoder": CNN, "quantizer": CODES}, "last.ckpt", write_averages
    ),
    "open_magvit2": Case(
        ["experiment=open_magvit2"], {"encoder": CNN, "decoder": CNN}, "last.ckpt", write_averages
    ),
    "wetok": Case(["experiment=wetok"], {"encoder": CNN, "decoder": CNN}, "last.ckpt", write_averages),
    "wetok generative": Case(
        ["experiment=wetok_generative"],
        {"encoder": CNN, "decoder": CNN, "quantizer": {"groups": 8}},
        "epoch=3.ckpt",
        write_finetuned,
    ),
    "simvq": Case(
        ["experiment=simvq"], {"encoder": CNN, "decoder": CNN, "quantizer": CODES | {"dim": 6}}, "a.ckpt", write_simvq
    ),
    "titok": Case(
        ["experiment=titok_l32"], TITOK | {"decoder": TRUNK | MASKGIT | {"weights": "random"}}, "a.bin", write_flat
    ),
    "titok one-stage": Case(
        ["experiment=titok_bl64"], TITOK | {"decoder": TRUNK | {"patch_size": 4}}, "model.safetensors", write_hub
    ),
    "titok with text": Case(
        ["experiment=ta_titok"], TITOK | {"decoder": TRUNK | {"patch_size": 4}}, "model.safetensors", write_hub
    ),
    "titok continuous": Case(
        ["experiment=titok_bl64", "quantizer=gaussian"],
        TITOK | {"decoder": TRUNK | {"patch_size": 4}, "quantizer": {"dim": 5}},
        "titok_ll32_vae_c16.bin",
        write_flat,
    ),
    "titok continuous with text": Case(
        ["experiment=ta_titok_kl"],
        TITOK | {"decoder": TRUNK | {"patch_size": 4}, "quantizer": {"dim": 5}},
        "model.safetensors",
        write_hub,
    ),
    "one_d_piece": Case(
        ["experiment=one_d_piece_l256"],
        TITOK | {"decoder": TRUNK | MASKGIT | {"weights": "random"}},
        "model.safetensors",
        write_hub,
    ),
    "gigatok": Case(
        ["experiment=gigatok_xlxxl"],
        {"encoder": GIGATOK | {"latents": 8}, "decoder": GIGATOK, "quantizer": CODES, "image_size": 8},
        "model.pt",
        write_gigatok,
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
        write_gigatok,
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
        write_flextok,
    ),
    "bsq_vit": Case(
        ["experiment=bsq_vit"],
        {"encoder": {**TRUNK, "patch_size": 4}, "decoder": {**TRUNK, "patch_size": 4, "hidden": 24}, "image_size": 16},
        "checkpoint.pt",
        write_bsq_vit,
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
        write_vfmtok,
    ),
    "xqgan": Case(
        ["experiment=robusttok", *WITHOUT],
        {"encoder": XQ | {"latents": 9}, "decoder": XQ, "quantizer": CODES | {"dim": 6}, "image_size": 16},
        "RobustTok-zero.pt",
        write_xqgan,
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
        write_xqgan,
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
        write_xqgan,
    ),
    **LATER,
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


def fabricate(name, folder):
    """A small tokenizer, its weights under the source's names, and the file that holds them."""
    config = small_config(name)
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
