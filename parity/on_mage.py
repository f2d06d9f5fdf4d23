"""The published modules of ALIT and KARL, which work on MAGE's VQGAN."""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from parity.official import HALVES, Official, Passed, source


def alit(tree: Path) -> Iterator[Official]:
    """AdaptiveLengthImageTokenizer of github.com/ShivamDuggal4/adaptive-length-tokenizer, without random halting."""
    base, code = _base(tree, 32), source(tree, "adaptive_tokenizers/adaptive_vqgan.py")
    sizes = _sizes(192, 3) | {"num_init_latent_tokens": 5, "max_rollout_iters": 3, "img_size": 64, "patch_size": 4}
    off = {"dynamic_halting": False, "train_stage": ""}
    module = code.AdaptiveLengthImageTokenizer(base, vq_codebook_size=300, **sizes, **off).eval()
    module.train_stage = "full_finetuning"
    positions = module.decoder.latent_token_positional_embedding
    module.decoder.latent_token_positional_embedding = nn.Parameter(positions.detach()[:15])

    def draw(image: Tensor) -> Tensor:
        return module(image, reconstruction_iters=[2])[-1]["reconstructed_imgs_2"]

    what = "`AdaptiveLengthImageTokenizer`, 3 rollouts of 5 tokens, 2 blocks of width 192, 3 heads"
    yield Official(what, module, _run(module, draw), _saved, square=True, suffix=".pth", **HALVES)


def karl(tree: Path) -> Iterator[Official]:
    """KARLTokenizer of github.com/ShivamDuggal4/karl, one image after the other: its masks mix those of a batch."""
    base = _base(tree, 256)  # its code takes as many channels as patches
    code = source(tree, "kolmogorov_tokenizers/karl_vqgan.py")
    module = code.KARLTokenizer(base, **_sizes(320, 5), vq_codebook_size=300, patch_size=4, train_stage="").eval()
    nn.init.normal_(module.halting_mlp[2].weight, std=0.3)  # so that some latents are halted

    def draw(image: Tensor) -> Tensor:
        return module.encode(image)[1][0]

    what = "`KARLTokenizer`, 256 of 512 tokens, 2 blocks of width 320"
    yield Official(what, module, _run(module, draw, each=True), _saved, square=True, suffix=".pth", **HALVES)


def _sizes(width: int, heads: int) -> dict[str, int]:
    """Of encoder and decoder."""
    sizes = {"width": width, "num_layers": 2, "num_heads": heads}
    return {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in sizes.items()}


def _base(tree: Path, channels: int) -> Any:
    """MAGE's VQGAN as their code wraps it, with three levels, whose gradients pass."""
    sys.path.insert(0, str(tree / "base_tokenizers"))
    code = source(tree, "modules/base_tokenizers.py")
    base = code.VQGANWrapper.__new__(code.VQGANWrapper)
    nn.Module.__init__(base)
    sizes = {
        "double_z": False, "z_channels": channels, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 128,
        "ch_mult": [1, 1, 2], "num_res_blocks": 2, "attn_resolutions": [16], "dropout": 0.0,
    }  # fmt: skip
    base.vqgan = code.VQModel(sizes, n_embed=200, embed_dim=channels)
    base.is_requires_grad, base.embed_dim, base.codebook_emb_dim, base.codebook_size = True, channels, channels, 200
    return base


def _run(module: Any, draw: Callable[[Tensor], Tensor], each: bool = False) -> Callable[[Tensor], Passed]:
    """A pass that listens to what is quantized and what is halted; ``each`` = one image after the other."""
    latents, ids, odds = list[Tensor](), list[Tensor](), list[Tensor]()
    if hasattr(module, "halting_mlp"):
        module.halting_mlp.register_forward_hook(lambda _, given, made: odds.append(made))
    module.pre_quantizer_mlp.register_forward_hook(lambda _, given, made: latents.append(made))
    module.quantize.register_forward_hook(lambda _, given, made: ids.append(made[1]["min_encoding_indices"]))

    def run(image: Tensor) -> Passed:
        found = list[tuple[Tensor, Tensor, Tensor]]()
        with patch.object(Tensor, "get_device", lambda value: value.device):
            for one in image.split(1) if each else [image]:
                drawn = draw(one)
                kept = torch.ones_like(ids[-1]) > 0 if not odds else odds[-1][..., 0].sigmoid() <= 0.75
                found.append((latents[-1], ids[-1].where(kept, 0)[..., None], drawn))
        return Passed(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    return run


def _saved(state: Mapping[str, Tensor]) -> Any:
    """What their trainer saves."""
    live = {name: value * 0 for name, value in state.items()}
    return {"model": live, "ema": dict(state), "epoch": 1}


ON_MAGE: dict[str, Callable[[Path], Iterator[Official]]] = {"alit": alit, "karl": karl}
