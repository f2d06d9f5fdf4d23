"""Fabricated checkpoints of transformers, and of nets of transformers and convolutions."""

from argparse import Namespace

import torch
from safetensors.torch import save_file
from zoo.case import CNN, CODES, TRUNK, Case
from zoo.writers import flat, with_averages

from imtok.zoo.blocks import VIT_BLOCK
from imtok.zoo.semanticist import VAE
from imtok.zoo.vfmtok import DINOV2

INSTELLA = ["encoder.rotary=published", "decoder.rotary=published", "image_size=1024"]


def write_uniwetok(tensors, path):
    """Nets of the training beside what the public code reads."""
    more = {"prior.blocks.0.weight": torch.ones(2), "model_ema.priorblocks0weight": torch.ones(2)}
    torch.save({"epoch": 3, "state_dict": with_averages(tensors) | more, "loops": {}}, path)


def write_instella(tensors, path):
    """Safetensors, with the projection to DINOv2's features that training needs."""
    more = {"decoder.repa_proj.0.weight": torch.ones(2, 2)}
    save_file({name: value.contiguous() for name, value in (tensors | more).items()}, path)


def write_hita(tensors, path):
    """The trainer leaves out DINOv2, which lies in a file of its own; what predicts its features is there."""
    net = {name.removeprefix("space."): value for name, value in tensors.items() if name.startswith("space.")}
    own = {name: value for name, value in tensors.items() if not name.startswith("space.")}
    own |= {"quantize.codebook_used": torch.zeros(9), "decode_transformer.norm_vfm.weight": torch.ones(3)}
    torch.save({"model": {name: value * 0 for name, value in own.items()}, "ema": own}, path)
    blocks = {new: old for old, new in VIT_BLOCK.items()}
    found = {
        "cls_token": net["class_token"][None],
        "register_tokens": net["registers"][None],
        "pos_embed": torch.nn.functional.pad(net["positions"], (0, 0, 1, 0))[None],
        "mask_token": torch.zeros(1, net["class_token"].shape[-1]),
    }
    for name, value in net.items():
        if name.startswith(("patches.", "norm.")):
            found[name.replace("patches.", "patch_embed.proj.")] = value
        elif name.startswith("trunk.blocks."):
            _, _, block, *module, kind = name.split(".")
            found[f"blocks.{block}.{blocks['.'.join(module)]}.{kind}"] = value
            found |= {f"blocks.{block}.ls{scale}.gamma": torch.ones(found["mask_token"].shape[1]) for scale in (1, 2)}
    torch.save(found, path.parent / DINOV2)


def write_alit(tensors, path):
    """The critics of the second stage beside the weights."""
    average = tensors | {"gan_losses.0.discriminator.main.0.weight": torch.ones(3)}
    torch.save({"model": {name: value * 0 for name, value in average.items()}, "ema": average, "epoch": 3}, path)


def write_semanticist(tensors, path):
    """Averages of what learns, with names of a compiled model; the file of the autoencoder beside them."""
    vae = {name.removeprefix("vae."): value.contiguous() for name, value in tensors.items() if name.startswith("vae.")}
    own = {name: value for name, value in tensors.items() if not name.startswith("vae.")}
    own |= {"dit.projector.0.weight": torch.ones(2, 2)}
    torch.save({name.replace("dit.", "dit._orig_mod.", 1): value for name, value in own.items()}, path)
    save_file(vae, path.parent / VAE)


def write_fqgan(tensors, path):
    """What the trainer saves; the published scripts keep no averages."""
    torch.save({"model": _with_heads(tensors), "optimizer": {"state": {}}, "steps": 3, "args": Namespace(lr=1)}, path)


def write_fqgan_averages(tensors, path):
    """The same with averages, which its evaluation takes first."""
    torch.save({"model": {name: value * 0 for name, value in tensors.items()}, "ema": _with_heads(tensors)}, path)


def write_mgvq(tensors, path):
    """What its code keeps of use and of batches beside the weights."""
    more = {"quantize.codebook_used": torch.zeros(2, 9), "quantize.embed_prob": torch.zeros(2, 50)}
    norms = [name for name in tensors if name.endswith(".running_var")]
    more |= {name.replace("running_var", "num_batches_tracked"): torch.tensor(7) for name in norms}
    torch.save({"model": tensors | more}, path)


def write_alitok(tensors, path):
    """What its trainer saves: also the critic, and the use of the codes in the first stage."""
    used = {"quantize.embed_prob": torch.zeros(9)}
    critic = {"discriminator.main.0.weight": torch.ones(3)}
    torch.save({"step": 3, "model_state": tensors | used, "criterion_state": critic, "scaler_state": {}}, path)


def write_elm(tensors, path):
    """Averages of the autoencoder and its critic, unused shortcuts and the spread of pixels among them."""
    firsts = [name.removesuffix("conv1.weight") for name in tensors if name.endswith(".conv1.weight")]
    more = {f"{name}conv_out.weight": torch.ones(2) for name in firsts if f"{name}conv_out.weight" not in tensors}
    more |= {"generator.logsigma.0.weight": torch.ones(2)}
    named = {f"ae.{name}": value for name, value in (tensors | more).items()}
    torch.save(named | {"disc.main.0.weight": torch.ones(2)}, path)


def write_tokenflow(tensors, path):
    """What its trainer saves: also what predicts CLIP's features, the ring of used codes, and the critic."""
    heads = {"decoder_vqkd.cls_token": torch.ones(1, 1, 3), "decode_task_layer.0.weight": torch.ones(3)}
    model = tensors | heads | {"quantize.codebook_used": torch.zeros(9)}
    torch.save({"model": model, "discriminator": {"main.0.weight": torch.ones(3)}, "steps": 3}, path)


def write_unitok(tensors, path):
    """What its trainer saves: also arguments, the critic, the contrast with captions, positions and what is all 0."""
    used = {f"quantizer.codebooks.{part}.vocab_usage": torch.zeros(50) for part in range(3)}
    zeros = {f"{name}.attn.zero_k_bias": torch.zeros(64) for name in ("quant_proj", "post_quant_proj")}
    tower = ("text_encoder.text_projection", "fc_norm.weight", "projection.weight", "logit_scale")
    more = used | zeros | {"encoder.pos_embed": torch.zeros(1, 1, 64)} | {name: torch.ones(2) for name in tower}
    trainer = {"config": {"dcrit": "hg"}, "unitok": tensors | more, "disc": {"heads.0.weight": torch.ones(3)}}
    arguments = {"model": "vitamin_large", "img_size": 32, "dtype": torch.bfloat16, "run_id": None}
    torch.save({"args": arguments, "epoch": 1, "iter": 0, "trainer": trainer}, path)


def _with_heads(tensors):
    """Rings of used codes, and what predicts the features of teachers."""
    used = {f"quantize_{code}.codebook_used": torch.zeros(9) for code in ("vis", "sem", "sem_mid", "sem_high")}
    used = {name: value for name, value in used.items() if name.replace("codebook_used", "embedding.weight") in tensors}
    heads = ("feat_pred_head", "mid_sem_feat_pred", "high_sem_feat_pred")
    return tensors | used | {f"{head}.ln_pre.weight": torch.ones(3) for head in heads}


FQ_NETS = {
    "encoder": CNN | {"depth": 2, "heads": 1, "latent_channels": 16},
    "decoder": CNN | {"latent_channels": 16},
    "image_size": 16,
}
FQ_PART = {"_target_": "imtok.quantizers.vq.VQ", "dim": 6, "codebook_size": 50, "entropy_weight": 0.03}
ELM = CNN | {"latent_channels": 32}
FLOW = CNN | {"latent_channels": 16}
FLOW_SHARED = {"quantizer": {"codebook_size": 50, "part_dims": [5, 3]}}
FLOW_ENCODER = {"semantic": TRUNK | {"patch_size": 2, "factor": 2}, "pixels": FLOW, "pixel_share": 0.375}
ALITOK = {
    "encoder": TRUNK | {"prefix": 5, "patch_size": 4},
    "decoder": TRUNK | {"depth": 3, "patch_size": 4, "class_tokens": 2},
    "quantizer": CODES,
    "image_size": 16,
}
VITAMIN = TRUNK | {"channels": 8, "multipliers": [1, 2], "convolutions": [1, 2]}
MG_PART = {"_target_": "imtok.quantizers.vq.VQ", "dim": 8, "restart_below": 0.1}
DC_AE = {"channels": 32, "multipliers": [1, 2], "transformers": 1, "latent_width": 16, "groups": 2}
MAGE = {"channels": 128, "multipliers": [1, 1], "blocks": 1, "codes": 20, "code_dim": 12}
ON_MAGE = ["space.weights=null", "decoder.weights=null"]
HITA = TRUNK | {"channels": 32, "multipliers": [1, 2], "groups": 32, "patch_dim": 5, "mlp_ratio": 1.5, "depth": 1}
TRANSFORMERS = {
    "uniwetok": Case(
        ["experiment=uniwetok"],
        {
            "encoder": CNN | {"blocks": 1, "attention_blocks": 1},
            "decoder": CNN | {"blocks": 1, "attention_blocks": 1},
            "quantizer": {"groups": 2},
        },
        "uniwetok.ckpt",
        write_uniwetok,
    ),
    "fqgan": Case(
        ["experiment=fqgan_dual"],
        FQ_NETS | {"quantizer": {"parts": [FQ_PART, FQ_PART | {"codebook_size": 40}]}},
        "fqgan_dual_ds16.pt",
        write_fqgan,
    ),
    "fqgan with three codes": Case(
        ["experiment=fqgan_triple"],
        FQ_NETS | {"quantizer": {"parts": [FQ_PART] * 3}},
        "fqgan_triple_ds16.pt",
        write_fqgan_averages,
    ),
    "tokenset": Case(
        ["experiment=tokenset"],
        {
            "encoder": TRUNK | {"latents": 6, "patch_size": 4},
            "decoder": TRUNK | {"feature_dim": 12, "channels": 32, "multipliers": [1, 1, 2], "groups": 32},
            "quantizer": CODES,
            "image_size": 16,
        },
        "tokenset.bin",
        flat,
    ),
    "instella": Case(
        ["experiment=instella_1d", *INSTELLA],
        {
            "encoder": {"width": 64, "heads": 1, "patch_size": 4, "latents": 6, "coarse_depth": 1},
            "decoder": {"width": 128, "heads": 2, "patch_size": 4, "latent_width": 64, "depth": 1},
            "quantizer": {"slot_bits": [8, 2]},
        },
        "model.safetensors",
        write_instella,
    ),
    "hita": Case(
        ["experiment=hita", "space.weights=null"],
        {
            "encoder": HITA | {"latents": 6},
            "decoder": HITA,
            "quantizer": {
                "parts": [
                    {"_target_": "imtok.quantizers.vq.VQ", "dim": 7, "codebook_size": 50},
                    {"_target_": "imtok.quantizers.vq.VQ", "dim": 5, "codebook_size": 40},
                ],
                "lengths": [6, 64],
            },
            "space": TRUNK,
            "image_size": 16,
        },
        "hita-tokenizer.pt",
        write_hita,
    ),
    "alit": Case(
        ["experiment=alit", *ON_MAGE],
        {
            "encoder": TRUNK | {"latents": 3, "rollouts": 2},
            "decoder": TRUNK | MAGE,
            "quantizer": CODES,
            "space": MAGE,
            "image_size": 8,
        },
        "alit.pth",
        write_alit,
        {"decoder.pixels": "space.decoder"},
    ),
    "karl": Case(
        ["experiment=karl", *ON_MAGE],
        {
            "encoder": TRUNK | {"latents": 6},
            "decoder": TRUNK | MAGE,
            "quantizer": CODES,
            "space": MAGE,
            "image_size": 32,
        },
        "karl.pth",
        write_alit,
        {"decoder.pixels": "space.decoder"},
    ),
    "mgvq": Case(
        ["experiment=mgvq", "regularizer=none"],
        {
            "encoder": DC_AE | {"depths": [2, 1]},
            "decoder": DC_AE | {"depths": [1, 2]},
            "quantizer": {"parts": [{**MG_PART, "codebook_size": 25}] * 2},
        },
        "mgvq_f4.pt",
        write_mgvq,
    ),
    "elm": Case(
        ["experiment=elm"],
        {"encoder": ELM, "decoder": ELM | {"blocks": 1}, "quantizer": {"slot_bits": [5]}},
        "binaryae_ema.th",
        write_elm,
    ),
    "elm with two codes": Case(
        ["experiment=elm"],
        {"encoder": ELM, "decoder": ELM | {"attention": "none"}, "quantizer": {"slot_bits": [9, 9]}},
        "binaryae_ema.th",
        write_elm,
    ),
    "tokenflow": Case(
        ["experiment=tokenflow", "encoder.semantic.weights=null"],
        {
            "encoder": FLOW_ENCODER,
            "decoder": {"net": FLOW | {"blocks": 3}, "pixel_share": 0.375},
            "quantizer": FLOW_SHARED,
            "image_size": 28,
        },
        "tokenflow_clipb_32k.pt",
        write_tokenflow,
    ),
    "tokenflow with the enhanced decoder": Case(
        ["experiment=tokenflow", "encoder.semantic.weights=null"],
        {
            "encoder": FLOW_ENCODER,
            "decoder": {"net": FLOW | {"channels": 64, "blocks": 1}, "pixel_share": 0.375},
            "quantizer": FLOW_SHARED,
            "image_size": 28,
        },
        "tokenflow_clipb_32k_enhanced.pt",
        write_tokenflow,
    ),
    "unitok": Case(
        ["experiment=unitok"],
        {
            "encoder": VITAMIN,
            "decoder": VITAMIN | {"multipliers": [1, 3], "convolutions": [2, 1]},
            "quantizer": {
                "parts": [{"_target_": "imtok.quantizers.vq.VQ", "dim": 4, "codebook_size": 50}] * 3,
                "loss_weight": 1 / 3,
            },
            "image_size": 32,
        },
        "unitok_tokenizer.pth",
        write_unitok,
    ),
    "alitok": Case(["experiment=alitok"], ALITOK, "AliTok.pth", flat),
    "alitok first stage": Case(["experiment=alitok_stage1"], ALITOK, "last.pth", write_alitok),
    "semanticist": Case(
        ["experiment=semanticist", "decoder=semanticist_l", "space.weights=random"],
        {
            "encoder": TRUNK | {"latents": 6, "patch_size": 4},
            "decoder": TRUNK,
            "quantizer": {"dim": 5},
            "space": {"dim": 4, "channels": 32, "groups": 32, "multipliers": [1, 2], "blocks": 1},
            "image_size": 16,
        },
        "semanticist_tok_L.pkl",
        write_semanticist,
    ),
}
