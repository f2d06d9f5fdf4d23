"""The published modules of further tokenizers whose latents are a grid; see ``official.py``."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from imtok.decoders.noise import steady_noise
from parity.official import HALVES, Empty, Official, Passed, flat, grid_run, source, with_averages


def wetok(tree: Path) -> Iterator[Official]:
    """WeTok, github.com/zhuangshaobin/WeTok. Its decoder that reads noise gets the noise of imtok's evaluation."""
    nets = source(tree, "src/WeTok/modules/diffusionmodules/improved_model.py")
    codes = source(tree, "src/WeTok/modules/vqvae/lookup_free_quantize.py")
    for channels, groups, noise in ((32, 4, False), (64, 8, False), (128, 4, False), (64, 4, True)):
        decoder = nets.GANDecoder if noise else nets.Decoder
        module = _magvit2(nets.Encoder, decoder, channels, 8 * groups)
        own = codes.LFQ(dim=8 * groups, codebook_size=256, num_codebooks=groups).eval()  # no part, since no weights

        def run(image: Tensor, module: Any = module, own: Any = own, noise: bool = noise) -> Passed:
            maps = module.encoder(image)
            values, _, ids = own(maps)
            with _noise() if noise else nullcontext():
                shown = module.decoder(values)
            return Passed(flat(maps), ids.reshape(len(image), -1, own.num_codebooks), shown)

        kind = "with the decoder that reads noise, its averages" if noise else "averages"
        what = f"`VQModel`, 3 levels of {channels} channels, {groups} groups of 8 bits, {kind}"
        frozen = ("encoder.",) if noise else ()
        yield Official(what, module, run, partial(with_averages, frozen=frozen))


def simvq(tree: Path) -> Iterator[Official]:
    """SimVQ, github.com/youngsheen/SimVQ."""
    nets = source(tree, "taming/modules/diffusionmodules/improved_model.py")
    codes = source(tree, "taming/modules/vqvae/quantize.py")
    for channels in (32, 64, 128):
        module = _magvit2(nets.Encoder, nets.Decoder, channels, 16)
        module.quantize = codes.SimVQ(200, 16, legacy=False)

        def run(image: Tensor, module: Any = module) -> Passed:
            maps = module.encoder(image)
            (values, _, ids), told = module.quantize(maps)
            return Passed(flat(maps), ids.reshape(len(image), -1, 1), module.decoder(values), told.commitment)

        what = f"`VQModel`, 3 levels of {channels} channels, averages"
        yield Official(what, module, run, partial(with_averages, frozen=("quantize.embedding.",)))


def rq_vae(tree: Path) -> Iterator[Official]:
    """RQ-VAE of RQ-Transformer, github.com/kakaobrain/rq-vae-transformer."""
    generator = "rqvae.models.rqtransformer"  # which today's Python refuses, and no tokenizer needs
    with patch.dict(sys.modules, {generator: Empty(generator)}):
        code = source(tree, "rqvae/models/rqvae/rqvae.py")
    for channels, levels, attended, shared in (
        (32, (1, 2, 2), 16, True),
        (64, (1, 2), 32, False),
        (128, (1, 2), 16, True),
    ):
        net = {"ch": channels, "out_ch": 3, "ch_mult": levels, "num_res_blocks": 1, "attn_resolutions": [attended]}
        net |= {"in_channels": 3, "resolution": 64, "z_channels": 16, "double_z": False}
        shapes = {"latent_shape": [16, 24, 12], "code_shape": [16, 24, 4]}
        module = code.RQVAE(
            embed_dim=12, n_embed=150, ddconfig=net, shared_codebook=shared, restart_unused_codes=True, **shapes
        ).eval()

        def run(image: Tensor, module: Any = module) -> Passed:
            latents = module.encode(image)
            values, loss, ids = module.quantizer(latents)
            return Passed(latents.flatten(1, 2), ids.flatten(1, 2), module.decode(values), 0.25 * loss)

        books = "a codebook of all depths" if shared else "four codebooks"
        what = f"`RQVAE`, {len(levels)} levels of {channels} channels, {books}"
        yield Official(what, module, run, lambda state: {"epoch": 1, "state_dict": dict(state)}, suffix=".pt")


def var(tree: Path) -> Iterator[Official]:
    """The VQVAE of VAR, github.com/FoundationVision/VAR, of three levels: images of 64 pixels fill its scales."""
    code, nets = source(tree, "models/vqvae.py"), source(tree, "models/basic_vae.py")
    for channels in (32, 64, 128):
        module = code.VQVAE(vocab_size=300, z_channels=16, ch=32)
        sizes = {"ch": channels, "ch_mult": (1, 1, 2), "num_res_blocks": 1, "z_channels": 16}
        module.encoder, module.decoder = nets.Encoder(**sizes), nets.Decoder(**sizes)

        def run(image: Tensor, module: Any = module) -> Passed:
            maps = module.quant_conv(module.encoder(image))
            with patch("torch.distributed.get_world_size", return_value=1):
                values, _, loss = module.quantize(maps)
            ids = torch.cat(module.quantize.f_to_idxBl_or_fhat(maps, to_fhat=False), 1)[..., None]
            return Passed(flat(maps), ids, module.decoder(module.post_quant_conv(values)), loss)

        what = f"`VQVAE`, 3 levels of {channels} channels, ten scales"
        yield Official(what, module.eval().requires_grad_(False), run, dict, square=True, suffix=".pth")


def elm(tree: Path) -> Iterator[Official]:
    """The binary autoencoder of ELM, github.com/Pepper-lll/LMforImageGeneration, with the likelier bits."""
    code: Any = source(tree, "bae/binaryae.py", without=("timm", "misc"))
    for channels, levels, bits, slots in ((32, [1, 1, 2], 16, 1), (64, [1, 2], 20, 2), (32, [1, 2], 24, 3)):
        sizes = {"n_channels": 3, "nf": channels, "res_blocks": 2, "gen_mul": 1.0, "codebook_size": bits}
        sizes |= {"emb_dim": 64, "ch_mult": levels, "img_size": 16 * 2 ** (len(levels) - 1), "attn_resolutions": [16]}
        flags = {"quantizer": "binary", "beta": 0.25, "deterministic": True, "norm_first": True, "use_tanh": False}
        with patch.object(nn.Module, "cuda", lambda part: part):
            module = code.BinaryAutoEncoder(SimpleNamespace(**sizes, **flags)).eval()

        def run(image: Tensor, module: Any = module, slots: int = slots) -> Passed:
            maps = module.quantize.proj[0](module.encoder(image))
            codes, binary = module.encode(image)
            parts = flat(binary).unflatten(2, (slots, -1)).long()
            return Passed(flat(maps), (parts * 2 ** torch.arange(parts.shape[-1])).sum(-1), module.decode(codes, False))

        def content(state: Any) -> Any:
            return {f"ae.{name}": value for name, value in state.items()} | {"disc.main.0.weight": torch.ones(2)}

        what = f"`BinaryAutoEncoder`, {len(levels)} levels of {channels} channels, {slots} x {bits // slots} bits"
        yield Official(what, module, run, content, suffix=".th", given={"slots": slots})


def maskgit_vqgan(tree: Path) -> Iterator[Official]:
    """MaskGIT's tokenizer in torch, github.com/bytedance/1d-tokenizer; its loss is not that of MaskGIT's own code."""
    code: Any = source(tree, "modeling/modules/maskgit_vqgan.py")
    for channels, levels in ((32, (1, 1, 2)), (64, (1, 2)), (128, (1, 2, 4))):
        sizes = {"num_channels": 3, "hidden_channels": channels, "channel_mult": levels, "num_res_blocks": 2}
        sizes |= {"num_resolutions": len(levels), "dropout": 0.0, "z_channels": 24, "resolution": 64}
        module = nn.Module()
        module.encoder, module.decoder = (net(SimpleNamespace(**sizes)) for net in (code.Encoder, code.Decoder))
        module.quantize = code.VectorQuantizer(200, 24, 0.25)

        def run(image: Tensor, module: Any = module) -> Passed:
            maps = module.encoder(image)
            values, ids, _ = module.quantize(maps, return_loss=True)
            return Passed(flat(maps), ids[..., None], module.decoder(values))

        what = f"`maskgit_vqgan`, {len(levels)} levels of {channels} channels"
        yield Official(what, module, run, dict, suffix=".bin", **HALVES)


def maskbit(tree: Path) -> Iterator[Official]:
    """MaskBit's tokenizer and VQGAN+, github.com/markweberdev/maskbit."""
    code: Any = source(tree, "modeling/conv_vqgan.py")
    config = importlib.import_module("omegaconf").OmegaConf
    for channels, levels, kind, width in (
        (32, (1, 1, 2), "lookup-free", 10),
        (64, (1, 2), "lookup-free", 18),
        (64, (1, 2), "lookup", 24),
        (128, (1, 2, 4), "lookup", 64),
    ):
        sizes = {"num_channels": 3, "hidden_channels": channels, "channel_mult": levels, "num_res_blocks": 2}
        sizes |= {"num_resolutions": len(levels), "sample_with_conv": True, "quantizer_type": kind}
        sizes |= {"codebook_size": 200, "token_size": width, "commitment_cost": 0.25, "entropy_loss_weight": 0.0}
        sizes |= {"entropy_loss_temperature": 0.01, "entropy_gamma": 1.0}
        module = code.ConvVQModel(config.create(sizes))

        def run(image: Tensor, module: Any = module) -> Passed:
            maps = module.encoder(image)
            values, told = module.quantize(maps)
            ids = told["min_encoding_indices"].reshape(len(image), -1, 1)
            return Passed(flat(maps), ids, module.decoder(values), told["quantizer_loss"])

        codes = f"{width} bits" if kind == "lookup-free" else f"codes of {width} channels"
        what = f"`ConvVQModel`, {len(levels)} levels of {channels} channels, {codes}"
        yield Official(what, module, run, dict, suffix=".bin", **HALVES)


def mgvq(tree: Path) -> Iterator[Official]:
    """MGVQ, github.com/MKJia/MGVQ, whose norm in Triton is written out here."""
    code: Any = source(tree, "efficientvit/models/tokenizer/mgvq.py", without=("triton",))
    sys.modules["efficientvit.models.nn.norm"].TritonRMSNorm2dFunc = _RMSNorm  # type: ignore[attr-defined]
    config = importlib.import_module("omegaconf").OmegaConf
    for levels, groups in ((3, 4), (2, 8)):
        blocks, norms, acts = ["ResBlock"] * 2, ["bn2d"] * 2, ["relu"] * 2
        for _ in range(levels - 1):
            blocks, norms, acts = [*blocks, "EViT_GLU"], [*norms, "trms2d"], [*acts, "silu"]
        shared = {"width_list": [16, 32, 64, 64][: levels + 1], "block_type": blocks}
        sizes = {
            "latent_channels": 32, "codebook_size": 100 * groups, "codebook_groups": groups,
            "encoder": {**shared, "depth_list": [0, 2, 1, 2][: levels + 1]},
            "decoder": {**shared, "depth_list": [0, 1, 2, 1][: levels + 1], "norm": norms, "act": acts},
        }  # fmt: skip
        module = code.MGVQ(config.to_object(config.merge(config.structured(code.MGVQConfig), sizes))).eval()
        for name, value in module.named_buffers():
            if "running" in name:
                value.copy_(1 + torch.rand_like(value))

        def run(image: Tensor, module: Any = module, groups: int = groups) -> Passed:
            maps = module.quant_conv(module.encoder(image))
            values, _, (*_, ids) = module.quantize(maps)
            return Passed(flat(maps), ids.reshape(len(image), -1, groups), module.decode(values))

        what = f"`MGVQ`, {levels} levels of up to 64 channels, {groups} groups of 100 codes; its norm written out"
        yield Official(what, module, run, lambda state: {"model": dict(state)}, suffix=".pt")


def unitok(tree: Path) -> Iterator[Official]:
    """UniTok, github.com/FoundationVision/UniTok, with fewer blocks and a small text tower."""
    without = ("ftfy", "pytz", "tap", "pywt")
    source(tree, "open_clip/model.py", without)  # its text tower
    code: Any = source(tree, "models/unitok.py", without)
    nets: Any = sys.modules["models.vitamin"]
    given = {"HybridEmbed": ("backbone", "img_size"), "GeGluMlp": ("in_features", "hidden_features")}
    ours = {name: _taking(getattr(nets, name), keys) for name, keys in given.items()}
    for size, depth, parts in (("base", 2, 4), ("large", 1, 8)):
        sizes = {"model": f"vitamin_{size}", "num_query": 0, "img_size": 64, "drop_path": 0.1, "grad_ckpt": False}
        sizes |= {"vocab_size": 100 * parts, "vocab_width": 8 * parts, "vq_beta": 0.25, "num_codebooks": parts}
        sizes |= {"quant_proj": "attn", "le": 0.0, "e_temp": 0.01, "embed_dim": 16, "text_width": 16, "text_heads": 2}
        sizes |= {"text_layers": 1, "text_vocab_size": 50, "text_context_length": 7}
        make = partial(code.timm.create_model, depth=depth)
        with (
            patch.multiple(nets, **ours),
            patch.object(code, "GeGluMlp", ours["GeGluMlp"]),
            patch.object(code.timm, "create_model", make),
        ):
            module = code.UniTok(SimpleNamespace(**sizes)).eval()

        def run(image: Tensor, module: Any = module) -> Passed:
            latents = module.quant_proj(module.encoder(image))
            codes, loss, *_ = module.quantizer(latents)
            shown = module.decoder(module.post_quant_proj(codes))
            return Passed(latents, module.quantizer.f_to_idx(latents).transpose(1, 2), shown, loss)

        def content(state: Any, sizes: Any = sizes) -> Any:
            return {"args": {**sizes, "dtype": torch.bfloat16}, "trainer": {"config": {}, "unitok": dict(state)}}

        width = module.encoder.embed_dim
        what = f"`UniTok`, ViTamin of width {width} with {depth} block{'s' * (depth > 1)}, {parts} parts of 100 codes"
        yield Official(what, module, run, content, square=True, suffix=".pth")


def _taking(kind: Any, names: tuple[str, ...]) -> Any:
    """The class with these arguments alone: later versions of timm give it others, which it does not take."""

    class Plain(kind):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **{name: named[name] for name in names if name in named})

    return Plain


class _RMSNorm:
    @staticmethod
    def apply(maps: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """Each position over the root mean square of its channels."""
        scale = (maps.square().mean(1, keepdim=True) + eps).rsqrt()
        return maps * scale * weight[:, None, None] + bias[:, None, None]


def tokenflow(tree: Path) -> Iterator[Official]:
    """TokenFlow, github.com/ByteFlow-AI/TokenFlow, with a CLIP of two blocks; images of 56 pixels fill its scales."""
    gone = dict.fromkeys(("get_parameter_device", "get_parameter_dtype"))  # of older transformers
    with patch.multiple("transformers.modeling_utils", create=True, **gone):
        code: Any = source(tree, "tokenflow/tokenizer/vq_model.py", without=("ftfy",))
    clip: Any = sys.modules["tokenflow.tokenizer.clip.model"]
    for enhanced in (False, True):
        net = clip.VisionTransformer(56, 4, 768, 2, 12, 512)
        del net.proj
        levels = {part: [1, 1, 2] for part in ("encoder_ch_mult", "decoder_ch_mult")}
        args = {"teacher": "clipb_224", "codebook_size": 500, "commit_loss_beta": 0.25, "enhanced_decoder": enhanced}
        with patch.object(code.clip, "load_clip_vision", return_value=net):
            module = code.TokenFlow(code.ModelArgs(codebook_show_usage=False, **args, **levels))
        module.random_scale_drop = False

        def run(image: Tensor, module: Any = module) -> Passed:
            tokens = module.encode_task_layer(module.encoder_vqkd(image, return_patch_tokens=True))
            latents = torch.cat([tokens, flat(module.quant_conv(module.encoder(image)))], 2)
            codes, (codebook, commit, *_), ids = module.encode(image)
            return Passed(latents, ids[..., None], module.decode(codes)[1], codebook + commit)

        kind = "128 channels (256 in the decoder)" if enhanced else "128 channels"
        what = f"`TokenFlow`, 3 levels of {kind} beside 2 blocks of width 768, eight scales"
        yield Official(what, module, run, lambda state: {"model": dict(state)}, side=56, square=True, suffix=".pt")


def diffusers(tree: Path) -> Iterator[Official]:
    """VQModel of diffusers, github.com/huggingface/diffusers."""
    code = source(tree / "src", "diffusers/models/autoencoders/vq_model.py")
    for channels, attended, groups in ((32, True, 8), (64, False, 32), (128, True, 32)):
        down, up = ["DownEncoderBlock2D"] * 2, ["UpDecoderBlock2D"] * 2
        if attended:
            down[1], up[0] = "AttnDownEncoderBlock2D", "AttnUpDecoderBlock2D"
        sizes = {"block_out_channels": [channels, 2 * channels], "norm_num_groups": groups, "num_vq_embeddings": 200}
        sizes |= {"latent_channels": 8, "vq_embed_dim": 4, "mid_block_add_attention": attended, "norm_type": "group"}
        module = code.VQModel(down_block_types=down, up_block_types=up, **sizes).eval()
        own = module.quantize

        def quantize(maps: Tensor, own: Any = own) -> tuple[Tensor, Tensor, Tensor | None]:
            values, loss, (*_, ids) = own(maps)
            return values, ids, loss

        where = "attention at the lowest level" if attended else "no attention"
        what = f"`VQModel`, 2 levels of {channels} channels, {groups} groups, {where}"
        run = grid_run(module, quantize)
        yield Official(what, module, run, dict, side=32, suffix=".bin", beside=json.dumps(sizes))


def _magvit2(encoder: Any, decoder: Any, channels: int, bits: int) -> nn.Module:
    sizes = {"ch": channels, "out_ch": 3, "in_channels": 3, "num_res_blocks": 1, "z_channels": bits}
    module = nn.Module()
    for name, net in (("encoder", encoder), ("decoder", decoder)):
        setattr(module, name, net(ch_mult=(1, 2, 2), resolution=64, **sizes))
    return module


def _noise() -> AbstractContextManager[Any]:
    """Published code draws the noise that imtok's evaluation takes, for each image."""
    return patch("torch.randn_like", lambda maps: steady_noise(maps[0]).expand_as(maps))


GRIDS: dict[str, Callable[[Path], Iterator[Official]]] = {
    "wetok": wetok,
    "simvq": simvq,
    "diffusers": diffusers,
    "rq_vae": rq_vae,
    "var": var,
    "mgvq": mgvq,
    "tokenflow": tokenflow,
    "elm": elm,
    "maskgit_vqgan": maskgit_vqgan,
    "maskbit": maskbit,
    "unitok": unitok,
}
