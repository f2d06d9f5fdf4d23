"""The published modules of families whose latents are a sequence, as ``parity/official.py`` has those of grids."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from imtok.spaces.dino import MEAN, STD, resize
from imtok.zoo.vfmtok import DINOV2
from parity.official import HALVES, Official, Passed, attend, flat, source

SQUARE: dict[str, Any] = {"square": True, "suffix": ".bin"}


def shorter(blocks: nn.ModuleList, depth: int = 2) -> nn.ModuleList:
    """The first few of its blocks, where the code gives no choice of how many."""
    return nn.ModuleList(blocks[:depth])


def titok(tree: Path) -> Iterator[Official]:
    """TiTok and TA-TiTok, with codes and with means and variances, github.com/bytedance/1d-tokenizer."""
    yield from _titok(tree, ("TiTok", "one stage", "vq"), ("TiTok", "two stages", "vq"), ("TiTok", "one stage", "vae"))
    yield from _titok(tree, ("TATiTok", "with text", "vq"), ("TATiTok", "with text", "vae"))


def one_d_piece(tree: Path) -> Iterator[Official]:
    """One-D-Piece, github.com/turingmotors/One-D-Piece."""
    yield from _titok(tree, ("TiTok", "two stages", "vq"))


def _titok(tree: Path, *kinds: tuple[str, str, str]) -> Iterator[Official]:
    config = importlib.import_module("omegaconf").OmegaConf
    for name, words, mode in kinds:
        code, two = source(tree, f"modeling/{name.lower()}.py"), words == "two stages"
        net = {
            "vit_enc_model_size": "small", "vit_dec_model_size": "small", "vit_enc_patch_size": 16,
            "vit_dec_patch_size": 16, "num_latent_tokens": 24, "token_size": 12, "codebook_size": 200,
            "commitment_cost": 0.25, "use_l2_norm": True, "finetune_decoder": two, "quantize_mode": mode,
            "is_legacy": two, "regularization_name": "matryoshka", "clustering_vq": True,
            "text_context_length": 77, "text_embed_dim": 768,
        }  # fmt: skip
        data = {"preprocessing": {"crop_size": 64}}
        module = getattr(code, name)(config.create({"model": {"vq_model": net}, "dataset": data})).eval()
        module.requires_grad_(True)
        text = torch.randn(1, 77, 768) if name == "TATiTok" else None

        def run(image: Tensor, module: Any = module, text: Tensor | None = text) -> Passed:
            maps = module.encoder(pixel_values=image, latent_tokens=module.latent_tokens)
            latents, told = maps.squeeze(2).transpose(1, 2), module.quantize(maps)
            if isinstance(told, tuple):
                codes, ids, loss = told[0], told[1]["min_encoding_indices"].reshape(len(image), -1, 1), None
            else:  # all means before all log variances; in imtok each mean is before its log variance
                codes, ids, loss = told.mode(), None, 1e-6 * told.kl().sum() / len(image)
                latents = latents.unflatten(2, (2, -1)).transpose(2, 3).flatten(2)
            given = () if text is None else (text.to(image).expand(len(image), -1, -1),)
            return Passed(latents, ids, module.decode(codes, *given), loss)

        facts = json.dumps(
            {"model": {"vq_model": {key: net[key] for key in ("is_legacy", "use_l2_norm", "quantize_mode")}}}
        )
        what = f"`{name}` S, {words}, 24 tokens{'' if mode == 'vq' else ', continuous'}"
        yield Official(what, module, run, dict, beside=facts, text=text, **SQUARE, **HALVES)


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


def alitok(tree: Path) -> Iterator[Official]:
    """Both stages of AliTok, github.com/ali-vilab/alitok; the second as its generators read it."""
    trained = source(tree / "train_tokenizer", "model/vae_stage1.py")
    read = source(tree, "modeling/alitok.py")
    trained.range = read.range = lambda number: range(min(number, 2))  # of blocks: the code gives no choice of how many
    sizes = {"img_size": 64, "patch_size": 16, "aux_tokens_num": 5, "codebook_size": 200, "token_size": 32}
    for first in (True, False):
        module: Any = trained.AliTok_Stage1(SimpleNamespace(**sizes, clustering_vq=True)) if first else read.AliTok()
        module.eval()

        def run(image: Tensor, module: Any = module) -> Passed:
            latents = module.encoder(image, module.latent_tokens)
            codes, told = module.quantize(latents)
            shown = module.decode(codes)
            shown = shown[0] if isinstance(shown, tuple) else shown  # the first stage gives patches of the prefix, too
            ids = told["min_encoding_indices"].reshape(len(image), -1, 1)
            return Passed(latents.squeeze(2).transpose(1, 2), ids, shown, told["quantizer_loss"].mean())

        what = "first stage, 21 tokens of 64 pixels" if first else "second stage, 273 tokens of 256 pixels"
        kind = {"suffix": ".pth", "square": True, "side": 64 if first else 256}
        content = (lambda state: {"model_state": dict(state)}) if first else dict
        yield Official(f"{what}, 2 blocks of widths 768 and 1024", module, run, content, **kind, **HALVES)


def hita(tree: Path) -> Iterator[Official]:
    """VQModel of Hita, github.com/CVMI-Lab/Hita, with its DINOv2; kornia's resize is that of imtok."""
    without = ("refile", "kornia", "cv2", "tensorflow", "torch_fidelity")
    parts = source(tree, "hita/core/layers.py", without)
    code = source(tree, "hita/tokenizer/tokenizer_image/vq_model.py", without)
    net = source(tree, "hita/modules/pretrained_enc/dino_v2/vision_transformer.py", without)
    seen = _Seen(net.vit_small(img_size=224, patch_size=14, init_values=1.0, block_chunks=0, num_register_tokens=4))
    seen.net.blocks = shorter(seen.net.blocks)
    parts.instantiate_from_config = lambda made: made
    code.instantiate_from_config = lambda made: made()
    sizes = {
        "layer_type": "normal", "image_size": 64, "patch_size": 8, "dim": 192, "depth": 2, "num_head": 3,
        "mlp_dim": 768, "n_carrier": 12,
    }  # fmt: skip
    made = SimpleNamespace(
        encoder_config=lambda: parts.Encoder(in_channels=384, visual_encoder_config=seen, **sizes),
        decoder_config=lambda: parts.Decoder(shift_k=4, **sizes),
    )
    levels = [1, 1, 1, 2]
    module = code.VQModel(
        code.ModelArgs(300, encoder_ch_mult=levels, decoder_ch_mult=levels, z_channels=192, transformer_config=made)
    )

    def run(image: Tensor) -> Passed:
        with patch.object(torch, "no_grad", nullcontext):  # of the frozen net: its gradients pass in imtok
            return passed(image)

    def passed(image: Tensor) -> Passed:
        patches, holistic, _ = module.encode_transformer(image, module.encoder(image))
        first, second = module.pre_slots_quant(holistic), flat(module.quant_conv(patches))
        latents = torch.cat([first, nn.functional.pad(second, (0, 4))], 1)
        (codes, slots, _), loss, ids = module.train().encode(image)
        second, first = (found.reshape(len(image), -1, 1) for found in ids)
        ids = torch.cat([first, second + 300], 1)  # in imtok the codes of patches are counted on
        return Passed(latents, ids, module.decode(codes, slots)[0], loss[0] + loss[1])

    def content(state: Mapping[str, Tensor]) -> Any:
        return {"model": {name: value for name, value in state.items() if "backbone" not in name}, "steps": 1}

    def files(folder: Path) -> None:
        torch.save(seen.net.state_dict(), folder / DINOV2)

    what = "`VQModel`, 12 and 64 tokens, 3 trunks of 2 blocks of width 192, 3 heads"
    yield Official(what, module, run, content, square=True, suffix=".pt", files=files)


class _Seen(nn.Module):
    """Hita's frozen features: the class token and the patches of DINOv2."""

    is_trainable = False

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        pixels = (resize(image, 224).clamp(-1, 1) + 1) / 2
        mean, std = (torch.tensor(values)[:, None, None].to(pixels) for values in (MEAN, STD))
        found = self.net.forward_features((pixels - mean) / std)
        return torch.cat([found["x_norm_clstoken"][:, None], found["x_norm_patchtokens"]], 1)


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


SEQUENCES: dict[str, Callable[[Path], Iterator[Official]]] = {
    "titok": titok,
    "one_d_piece": one_d_piece,
    "tokenset": tokenset,
    "instella": instella,
    "hita": hita,
    "alitok": alitok,
}
