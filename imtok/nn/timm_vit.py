"""Which of timm's nets our vision transformer is, so that there is one way to hold it and to read its file."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from imtok.errors import InputError
from imtok.nn.mlp import MLPKind
from imtok.nn.timm_net import timm_blank, timm_config, timm_file, timm_net
from imtok.nn.transformer import BlockStyle
from imtok.nn.vit import ViT
from imtok.nn.vit_files import VitFile, read_vit
from imtok.pretrained import RANDOM

_BENT: dict[str, MLPKind] = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu"}


def timm_vit(name: str, weights: str | Path | None, side: int | None = None, **settings: Any) -> ViT | None:
    """A net of timm as ours, with its weights; the features are timm's up to rounding.

    Such nets are DINO, DINOv2 with and without registers, CLIP, MAE and the ViTs of ImageNet: those that have learned
    positions and speak of an image by their class token.

    Args:
        name: See :func:`imtok.nn.timm_net.timm_net`.
        weights: The same; and a file may be laid out as timm's, transformers' or the authors'.
        side: Of the images that it is to see, in pixels; None = its own.
        **settings: Of ``timm.create_model``.

    Returns:
        None for a net of another kind: take timm's own.

    Raises:
        InputError: If timm or the weight file is missing, or the file is of another net.
        ValueError: If timm has no such net.

    Example:
        >>> net = timm_vit("test_vit", "random", img_size=32)
        >>> net.width, timm_vit("test_resnet", "random")
        (64, None)
    """
    timm_config(name, weights)  # refuses names and a library that are not there
    with torch.device("meta"):
        blank = timm_blank(name, **settings)
        shape = shape_of(blank, side or int(blank.pretrained_cfg["input_size"][-1]))
    if shape is None:
        return None
    with torch.random.fork_rng(devices=[]):  # what is drawn here is filled, and is no draw of the run
        net = ViT(**shape).eval()
    if weights == RANDOM:
        own = dict(timm_net(name, RANDOM, **settings).state_dict())
        net.load_state_dict(VitFile(Path(name), own).weights(net))
        return net
    path = timm_file(name, weights)
    try:
        read_vit(net, path, whose=name)
    except InputError as error:
        reason = str(error).removeprefix(str(path)).strip()
        raise InputError(f"{path} does not hold the weights of {name} ({reason})") from None
    return net


def shape_of(net: Any, side: int) -> dict[str, Any] | None:
    """The arguments of our net for one of timm's; None if it is of another kind, or reads no whole patches.

    Args:
        net: As timm makes it, on any device.
        side: Of the images that it is to see, in pixels.
    """
    theirs: Any = import_module("timm.models.vision_transformer")
    if type(net) is not theirs.VisionTransformer or net.global_pool != "token" or net.pool_include_prefix:
        return None
    style, patch = _style(net, theirs), net.patch_embed.patch_size
    if style is None or patch[0] != patch[1] or side % patch[0] or not isinstance(net.patch_embed.norm, nn.Identity):
        return None
    shape = {
        "grid": (side // patch[0],) * 2,
        "patch_size": patch[0],
        "width": net.embed_dim,
        "depth": len(net.blocks),
        "heads": net.blocks[0].attn.num_heads,
        "class_tokens": int(net.has_class_token),
        "registers": net.num_reg_tokens,
        "norm_in": isinstance(net.norm_pre, nn.LayerNorm),
        "style": style,
    }
    try:
        with torch.device("meta"):
            VitFile(Path("net"), dict(net.state_dict())).weights(ViT(**shape))  # every weight of either has its place
    except InputError:
        return None
    return shape


def _style(net: Any, theirs: Any) -> BlockStyle | None:
    """How its blocks are made; None if ours are never so."""
    block = net.blocks[0]
    alike = all(type(one) is theirs.Block and type(one.attn) is theirs.Attention for one in net.blocks)
    norms = {(isinstance(norm, nn.LayerNorm), getattr(norm, "eps", None)) for norm in (block.norm1, net.norm)}
    if not alike or len(norms) > 1 or not isinstance(block.norm1, nn.LayerNorm):
        return None
    attention, mlp = block.attn, block.mlp
    plain = (attention.q_norm, attention.k_norm, attention.norm, mlp.norm, net.fc_norm)
    if not all(isinstance(part, nn.Identity) for part in plain) or attention.scale != attention.head_dim**-0.5:
        return None
    if type(mlp) is theirs.Mlp and getattr(mlp.act, "approximate", "none") == "none":
        kind, hidden = _BENT.get(type(mlp.act).__name__), mlp.fc1.out_features
    elif type(mlp).__name__ == "GluMlp" and isinstance(mlp.act, nn.SiLU) and not mlp.gate_last:
        kind, hidden = "swiglu", mlp.fc1.out_features // 2
    else:
        return None
    if kind is None:
        return None
    return BlockStyle(
        eps=block.norm1.eps,
        mlp=kind,
        mlp_ratio=hidden / net.embed_dim,
        bias=attention.qkv.bias is not None,
        layer_scale=0.0 if isinstance(block.ls1, nn.Identity) else 1.0,
    )
