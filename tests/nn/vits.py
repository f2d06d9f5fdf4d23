"""Tiny nets of timm and of transformers, of the families that our presets are of, with random weights."""

from functools import partial

import torch
from encoders.presets import preset

from imtok.construct import construct

WIDTH, HEADS, DEPTH = 32, 2, 3
_VIT = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "num_classes": 0}


def randomised(net):
    """With every weight drawn anew, those too that begin at zero or nearly."""
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return net.eval().requires_grad_(False)


def timm_net(name, side, **changes):
    """The net of timm that a preset is of, in its own class and with its own settings, but small."""
    from timm.layers import LayerNorm
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    size, exact = {"img_size": side, "patch_size": preset("encoder", name)["patch_size"]}, partial(LayerNorm, eps=1e-5)
    dinov3 = {
        "qkv_bias": False, "init_values": 1e-5, "rope_type": "dinov3", "rope_temperature": 100, "norm_layer": exact,
        "rope_rotate_half": True, "use_rot_pos_emb": True, "use_abs_pos_emb": False, "num_reg_tokens": 4,
        "use_fc_norm": False, "dynamic_img_size": True,
    }  # fmt: skip
    eva02 = {"mlp_ratio": 8 / 3, "swiglu_mlp": True, "use_rot_pos_emb": True, "ref_feat_shape": (16, 16)}
    kind, settings = {
        "dinov2_b14": (VisionTransformer, {"init_values": 1e-5}),
        "dinov2_b14_reg": (VisionTransformer, {"init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True}),
        "dinov3_s16": (Eva, dinov3),
        "clip_b16": (VisionTransformer, {"pre_norm": True, "norm_layer": exact, "act_layer": "quick_gelu"}),
        "siglip2_b16": (VisionTransformer, {"class_token": False, "global_pool": "map"}),
        "mae_b16": (VisionTransformer, {}),
        "eva02_s14": (Eva, eva02),
    }[name]
    return randomised(kind(**(size | _VIT | settings | changes)))


NAMES = ["dinov2_b14", "dinov2_b14_reg", "dinov3_s16", "clip_b16", "siglip2_b16", "mae_b16", "eva02_s14"]


def encoder_of(name, side, **changes):
    """A small encoder of a preset; its latents are its features."""
    small = {
        "width": WIDTH,
        "heads": HEADS,
        "depth": DEPTH,
        "weights": "random",
        "factor": preset("encoder", name)["patch_size"],
    }
    own = preset("encoder", name)
    config = own | small | changes | {"style": own["style"] | changes.get("style", {})}
    return construct(config, provided={"out_dim": WIDTH, "image_size": side}).eval().requires_grad_(False)
