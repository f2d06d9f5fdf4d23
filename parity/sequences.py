"""The published modules of families whose latents are a sequence, as ``parity/official.py`` has those of grids."""

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from parity.official import Official, Passed, attend, source

SQUARE: dict[str, Any] = {"square": True, "suffix": ".bin"}


def shorter(blocks: nn.ModuleList, depth: int = 2) -> nn.ModuleList:
    """The first few of its blocks, where the code gives no choice of how many."""
    return nn.ModuleList(blocks[:depth])


def tokenset(tree: Path) -> Iterator[Official]:
    """SetTokenizer of TokenSet, github.com/Gengzigang/TokenSet. It reads latents in an order that it draws."""
    module: Any = source(tree, "set_tokenizer/model.py").SetTokenizer(num_latent_tokens=24, crop_size=64)
    for part in (module.encoder, module.decoder):
        part.transformer, part.num_layers = shorter(part.transformer), 2

    def run(image: Tensor) -> Passed:
        latents = module.encoder(image * 0.5 + 0.5, module.latent_tokens)
        codes, ids = module.quantize(latents)
        return Passed(latents.squeeze(2).transpose(1, 2), ids.reshape(len(image), -1, 1), module.decode(codes))

    yield Official("`SetTokenizer`, 24 tokens, 2 blocks of width 768", module, run, dict, **SQUARE)


def instella(tree: Path) -> Iterator[Official]:
    """BAE_Model of Instella-T2I, github.com/AMD-AGI/Instella-T2I; what it takes of diffusers is written out here."""
    code = source(tree, "bae/ae_model.py", without=("diffusers", "transformers"))
    attention = sys.modules[code.LlamaFlashAttention2.__module__]
    attention.ACT2FN = {"silu": nn.functional.silu}
    attention._flash_attention_forward = lambda query, key, value, *_, **__: attend(query, key, value)
    code.FluxPosEmbed = _Waves
    sizes = {"in_channels": 3, "patch_size": 8, "num_latent_tkns": 12, "codebook_size": 20}
    parts = {"encoder_layers": 9, "encoder_head_dim": 64, "encoder_num_heads": 2, "downsample_idx": [7]}
    back = {"decoder_layers": 10, "decoder_head_dim": 64, "decoder_num_heads": 3, "upsample_idx": [7]}
    sizes |= {"axes_dims_rope": [8, 28, 28]}
    module = code.BAE_Model(importlib.import_module("omegaconf").OmegaConf.create(sizes | parts | back)).eval()
    module.set_scale(1024)

    def run(image: Tensor) -> Passed:
        latents = module.quantizer.proj(module.encoder(image))
        _, _, told = module.quantizer(module.encoder(image))
        bits = told["binary_code"].long()
        slots = [(part * 2 ** torch.arange(part.shape[-1])).sum(-1) for part in bits.split(8, -1)]  # lowest bit first
        return Passed(latents, torch.stack(slots, -1), module(image)["hidden_states"])

    what = "`BAE_Model`, 12 tokens of 20 bits, 9 blocks of width 128 and 10 of width 192"
    yield Official(what, module, run, dict, suffix=".bin")


class _Waves(nn.Module):
    """FluxPosEmbed of diffusers: cosines and sines of the coordinates, each twice."""

    def __init__(self, theta: float, axes_dim: Sequence[int]) -> None:
        super().__init__()
        self.theta, self.axes = theta, list(axes_dim)

    def forward(self, places: Tensor) -> tuple[Tensor, Tensor]:
        waves = [self.theta ** -(torch.arange(0, axis, 2, dtype=torch.float64) / axis) for axis in self.axes]
        angles = torch.cat([place[:, None] * wave for place, wave in zip(places.double().T, waves, strict=True)], 1)
        angles = angles.repeat_interleave(2, 1)
        return angles.cos().to(places), angles.sin().to(places)


SEQUENCES: dict[str, Callable[[Path], Iterator[Official]]] = {"tokenset": tokenset, "instella": instella}
