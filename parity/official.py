"""The published modules of each family, made of a checkout of their code, with random weights.

None of that code is in this repository. Each function below imports it from the folder that the user gives, and says
how its parts are put together: what are latents, ids and images, and what its trainer saves.
"""

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from imtok.decoders.noise import steady_noise

Quantize = Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]]
# What published files import for training or for a GPU.
UNUSED = ("pytorch_lightning", "ldm", "taming", "timm", "accelerate", "flash_attn")


# Of modules whose pixels lie in [0, 1].
HALVES: dict[str, Any] = {"units": lambda image: (image + 1) / 2, "own_units": lambda image: 2 * image - 1}


@dataclass(frozen=True)
class Passed:
    """What a published tokenizer makes of images.

    Attributes:
        latents: What is quantized, ``b n d``.
        ids: ``b n g``; None = its latents are continuous.
        image: ``b 3 h w``.
        loss: Of the quantizer, weighed as its code does it; None = that code gives none here.
    """

    latents: Tensor
    ids: Tensor | None
    image: Tensor
    loss: Tensor | None = None


@dataclass(frozen=True)
class Official:
    """A published tokenizer of one size.

    Attributes:
        what: The module and its size, in words.
        module: It.
        run: One pass.
        content: What its trainer saves, given its state dict.
        side: Height of the images; they are half as wide again unless ``square``.
        square: Whether it reads squares alone.
        suffix: Of the file that its trainer writes.
        beside: Text of a config.json beside that file; empty = there is none.
        factor: What its gradients are multiplied by before they are compared: BSQ's code also divides the gradient that
            passes its signs by the root of their number, which changes no direction.
        units: From [-1, 1] to what it reads.
        own_units: From what it writes back to [-1, 1].
        given: What the user tells ``imtok import``, since no shape does.
        files: Writes further files into the folder of the checkpoint.
        text: Features of a text that its decoder reads, ``1 n c``.
    """

    what: str
    module: nn.Module
    run: Callable[[Tensor], Passed]
    content: Callable[[Mapping[str, Tensor]], Any]
    side: int = 64
    square: bool = False
    suffix: str = ".ckpt"
    beside: str = ""
    factor: float = 1.0
    units: Callable[[Tensor], Tensor] = lambda image: image
    own_units: Callable[[Tensor], Tensor] = lambda image: image
    given: Mapping[str, Any] = field(default_factory=dict)
    files: Callable[[Path], None] = lambda folder: None
    text: Tensor | None = None


def flat(maps: Tensor) -> Tensor:
    """A map as a sequence."""
    return maps.flatten(2).transpose(1, 2)


def source(tree: Path, path: str, without: tuple[str, ...] = ()) -> Any:
    """A file of the checkout, as a module; packages of its trainer that are not installed are empty ones.

    Args:
        tree: The checkout.
        path: The file in it.
        without: Packages that are empty for it even if they are installed.
    """
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in without}
    sys.meta_path.insert(0, _Missing(without))
    sys.meta_path.append(_Missing(UNUSED))
    sys.path.insert(0, str(tree))
    try:
        with contextlib.chdir(tree):
            return importlib.import_module(path.removesuffix(".py").replace("/", "."))
    finally:
        del sys.meta_path[0], sys.meta_path[-1]
        for name in [name for name in sys.modules if name.split(".")[0] in without]:
            del sys.modules[name]
        sys.modules.update(hidden)


class _Nothing:
    """Stands for a function or an object: called, it gives back what it was given, as a decorator does."""

    def __call__(self, given: Any = None, *_: Any, **__: Any) -> Any:
        return given

    def __getattr__(self, name: str) -> "_Nothing":
        return self


class Empty(ModuleType):
    """A module in which every name in camel case is a class that does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        camel = name[0].isupper() and not name.isupper()
        return type(name, (nn.Module,), {}) if camel else _Nothing()


class _Missing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes an empty module of a package that cannot be imported, such as a trainer's."""

    def __init__(self, packages: tuple[str, ...]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name.split(".")[0] not in self.packages:
            return None
        return importlib.util.spec_from_loader(name, self, is_package=True)

    def create_module(self, spec: Any) -> ModuleType:
        return Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def in_lightning(state: Mapping[str, Tensor]) -> Any:
    """What a trainer of Lightning saves."""
    return {"epoch": 1, "global_step": 2, "state_dict": dict(state)}


def with_averages(state: Mapping[str, Tensor], frozen: tuple[str, ...] = ()) -> Any:
    """The same with averages beside the live weights, which differ: their names have no dots.

    Args:
        state: The averages.
        frozen: How the names of weights begin that do not learn, and have none.
    """
    learnt = {name: value for name, value in state.items() if not name.startswith(frozen)}
    live = {**state, **{name: value + 1 for name, value in learnt.items() if value.is_floating_point()}}
    averages = {f"model_ema.{name.replace('.', '')}": value for name, value in learnt.items()}
    return in_lightning(live | averages | {"model_ema.decay": torch.tensor(0.9)})


def convolutional(encoder: nn.Module, decoder: nn.Module, quantize: nn.Module, widths: tuple[int, int]) -> nn.Module:
    """The parts of a VQGAN by the names that all of them have; ``widths`` of its map and of its codes."""
    module = nn.Module()
    module.encoder, module.decoder, module.quantize = encoder, decoder, quantize
    module.quant_conv, module.post_quant_conv = nn.Conv2d(*widths, 1), nn.Conv2d(*reversed(widths), 1)
    return module


def grid_run(module: Any, quantize: Quantize) -> Callable[[Tensor], Passed]:
    """A pass of a VQGAN. ``quantize`` gives codes as a map, ids, and the loss."""

    def run(image: Tensor) -> Passed:
        maps = module.quant_conv(module.encoder(image))
        codes, ids, loss = quantize(maps)
        return Passed(flat(maps), ids.reshape(len(image), -1, 1), module.decoder(module.post_quant_conv(codes)), loss)

    return run


def llamagen(tree: Path) -> Iterator[Official]:
    """VQModel of LlamaGen, github.com/FoundationVision/LlamaGen."""
    code = source(tree, "tokenizer/tokenizer_image/vq_model.py")
    for levels in ([1, 1, 2], [1, 2]):
        sizes = {"codebook_size": 300, "encoder_ch_mult": levels, "decoder_ch_mult": levels}
        module = code.VQModel(code.ModelArgs(codebook_show_usage=False, **sizes))

        def quantize(maps: Tensor, own: Any = module.quantize) -> tuple[Tensor, Tensor, Tensor | None]:
            codes, (codebook, commit, *_), (*_, ids) = own.train()(maps)
            return codes, ids, codebook + commit

        what = f"`VQModel`, {len(levels)} levels of 128 channels"
        run = grid_run(module, quantize)
        yield Official(what, module, run, lambda state: {"model": dict(state), "steps": 1}, suffix=".pt")


def taming(tree: Path) -> Iterator[Official]:
    """VQModel and GumbelVQ of taming-transformers, github.com/CompVis/taming-transformers."""
    nets = source(tree, "taming/modules/diffusionmodules/model.py")
    codes = source(tree, "taming/modules/vqvae/quantize.py")
    for channels, levels, attended, gumbel in (
        (32, (1, 2, 2), [16], False),
        (64, (1, 2, 4), [32, 16], False),
        (64, (1, 1, 2, 4), [8], True),
    ):
        own = codes.GumbelQuantize(16, 16, 100) if gumbel else codes.VectorQuantizer2(100, 16, 0.25)
        sizes = {"ch": channels, "ch_mult": levels, "attn_resolutions": attended, "z_channels": 16}
        module = convolutional(*_compvis(nets, sizes), own, (16, 16))
        where = " and ".join(f"{side} x {side}" for side in attended)
        kind = "`GumbelVQ`" if gumbel else "`VQModel`"
        what = f"{kind}, {len(levels)} levels of {channels} channels, attention at {where}"
        yield Official(what, module, grid_run(module, _gumbel(own) if gumbel else _vector(own)), in_lightning)


def ldm(tree: Path) -> Iterator[Official]:
    """First-stage VQ models of latent diffusion, github.com/CompVis/latent-diffusion.

    Their codes are those of taming-transformers, whose ``VectorQuantizer2`` is written out here as a formula.
    """
    nets = source(tree, "ldm/modules/diffusionmodules/model.py")
    for channels, levels, attended, kind in (
        (128, (1, 2, 4), [], "vanilla"),
        (64, (1, 2, 2, 4), [8], "vanilla"),
        (64, (1, 2, 4), [], "none"),
    ):
        own = nn.Module()
        own.embedding = nn.Embedding(200, 3)

        def quantize(maps: Tensor, own: Any = own) -> tuple[Tensor, Tensor, Tensor | None]:
            table, latents = own.embedding.weight, flat(maps)
            ids = torch.cdist(latents, table[None]).argmin(-1)
            codes = table[ids]
            loss = 0.25 * (codes - latents.detach()).square().mean() + (codes.detach() - latents).square().mean()
            passed = latents + (codes - latents).detach()
            return passed.transpose(1, 2).unflatten(2, maps.shape[2:]), ids, loss

        sizes = {"ch": channels, "ch_mult": levels, "attn_resolutions": attended, "z_channels": 3, "attn_type": kind}
        module = convolutional(*_compvis(nets, sizes), own, (3, 3))
        where = "at 8 x 8" if attended else "in the middle" if kind == "vanilla" else "nowhere"
        what = f"first stage, {len(levels)} levels of {channels} channels, attention {where}"
        yield Official(what, module, grid_run(module, quantize), in_lightning)


def ibq(tree: Path) -> Iterator[Official]:
    """IBQ of SEED-Voken, github.com/TencentARC/SEED-Voken."""
    nets = source(tree, "src/IBQ/modules/diffusionmodules/model.py")
    codes = source(tree, "src/IBQ/modules/vqvae/quantize.py")
    own = codes.IndexPropagationQuantize(120, 16, beta=0.25)

    def quantize(maps: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        passed, _, (*_, ids) = own.eval()(maps)
        return passed, ids, None

    sizes = {"ch": 64, "ch_mult": (1, 2, 2), "attn_resolutions": [16], "z_channels": 16}
    module = convolutional(*_compvis(nets, sizes), own, (16, 16))
    yield Official("`IBQ`, 3 levels of 64 channels, averages", module, grid_run(module, quantize), with_averages)


def open_magvit2(tree: Path) -> Iterator[Official]:
    """Open-MAGVIT2 of SEED-Voken, github.com/TencentARC/SEED-Voken."""
    nets = source(tree, "src/Open_MAGVIT2/modules/diffusionmodules/improved_model.py")
    codes = source(tree, "src/Open_MAGVIT2/modules/vqvae/lookup_free_quantize.py")
    sizes = {"ch": 64, "out_ch": 3, "in_channels": 3, "num_res_blocks": 1, "z_channels": 10, "ch_mult": (1, 2, 2)}
    module = nn.Module()
    module.encoder, module.decoder = nets.Encoder(resolution=64, **sizes), nets.Decoder(resolution=64, **sizes)
    own = codes.LFQ(dim=10, codebook_size=2**10).eval()  # it has no weights, and is no part of the module

    def run(image: Tensor) -> Passed:
        maps = module.encoder(image)
        codes, _, ids = own(maps, return_loss=False)
        return Passed(flat(maps), ids.reshape(len(image), -1, 1), module.decoder(codes))

    yield Official("`VQModel`, 3 levels of 64 channels, 10 bits, averages", module, run, with_averages)


def bsq_vit(tree: Path) -> Iterator[Official]:
    """VITBSQModel of bsq-vit, github.com/zhaoyue-zephyrus/bsq-vit."""
    code = source(tree, "transcoder/models/bsqvit.py")
    net = {"image_size": 64, "patch_size": 8, "width": 128, "layers": 3, "heads": 2, "mlp_ratio": 4, "drop_rate": 0.0}
    module = code.VITBSQModel(net, 18, embed_group_size=9, l2_norm=True, post_q_l2_norm=True)

    def run(image: Tensor) -> Passed:
        latents = module.quant_embed(module.encoder(image))
        codes, _, told = module.quantize.eval()(nn.functional.normalize(latents, dim=-1))
        bits = told["group_indices"].long()[..., None] // 2 ** torch.arange(8, -1, -1) % 2  # the highest bit first
        return Passed(latents, (bits * 2 ** torch.arange(9)).sum(-1), module.decode(codes))

    def content(state: Mapping[str, Tensor]) -> Any:
        return {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 1}

    what = "`VITBSQModel`, 3 blocks of width 128, 18 bits; its gradients times the root of 18"
    yield Official(what, module, run, content, square=True, suffix=".pt", factor=18**0.5)


def uniwetok(tree: Path) -> Iterator[Official]:
    """UniWeTok's ``autoencoder_uni`` of BitDance, github.com/shallowdream204/BitDance, at the noise of imtok."""
    code = source(tree, "modeling/vision_encoder/autoencoder_uni.py")
    code.flash_attn_func = attend
    for channels, heads in ((32, 2), (96, 3), (128, 4)):
        sizes = {"ch": channels, "out_ch": 3, "in_channels": 3, "num_res_blocks": 1, "z_channels": 24}
        sizes |= {"ch_mult": (1, 1, 2), "n_heads": heads, "resolution": 64}
        module = nn.Module()
        module.encoder, module.decoder = code.Encoder(**sizes), code.GANDecoder(**sizes)

        def run(image: Tensor, module: Any = module) -> Passed:
            latents = module.encoder(image)
            signs = torch.where(latents > 0, 1.0, -1.0).to(latents)
            bits = flat(signs > 0).unflatten(2, (-1, 8)).long()  # the lowest bit first
            with patch.object(torch, "randn_like", lambda like: steady_noise(like[0]).expand_as(like)):
                image = module.decoder(latents + (signs - latents).detach())
            unbounded = torch.logit((latents + 1) / 2)  # the quantizer of imtok bounds latents, here the encoder does
            return Passed(flat(unbounded), (bits * 2 ** torch.arange(8)).sum(-1), image)

        what = (
            f"`autoencoder_uni`, 3 levels of {channels} channels, {heads} heads, 24 bits, averages; at the same noise"
        )
        yield Official(what, module, run, with_averages, given={"heads": heads})


def attend(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
    """What flash attention computes, by torch, for which heads come before positions."""
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    return nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def _compvis(nets: ModuleType, sizes: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    common = {"out_ch": 3, "num_res_blocks": 1, "in_channels": 3, "resolution": 64, "dropout": 0.0, "double_z": False}
    return nets.Encoder(**common, **sizes), nets.Decoder(**common, **sizes)


def _vector(own: Any) -> Quantize:
    def quantize(maps: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        codes, loss, (*_, ids) = own(maps)
        return codes, ids, loss

    return quantize


def _gumbel(own: Any) -> Quantize:
    """Its code without noise, as an evaluation wants it; gradients as of its hard draw at temperature 1."""

    def quantize(maps: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        soft = own.proj(maps).softmax(1)
        ids = soft.argmax(1)
        hard = nn.functional.one_hot(ids, soft.shape[1]).movedim(-1, 1).to(soft)
        codes = torch.einsum("b n h w, n d -> b d h w", hard - soft.detach() + soft, own.embed.weight)
        return codes, ids, None

    return quantize


OFFICIAL: dict[str, Callable[[Path], Iterator[Official]]] = {
    "llamagen": llamagen,
    "taming": taming,
    "ldm": ldm,
    "ibq": ibq,
    "open_magvit2": open_magvit2,
    "bsq_vit": bsq_vit,
    "uniwetok": uniwetok,
}
