"""The published modules of further tokenizers whose latents are a grid; see ``official.py``."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn

from imtok.decoders.noise import steady_noise
from parity.official import Official, Passed, flat, source, with_averages


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


def _magvit2(encoder: Any, decoder: Any, channels: int, bits: int) -> nn.Module:
    sizes = {"ch": channels, "out_ch": 3, "in_channels": 3, "num_res_blocks": 1, "z_channels": bits}
    module = nn.Module()
    for name, net in (("encoder", encoder), ("decoder", decoder)):
        setattr(module, name, net(ch_mult=(1, 2, 2), resolution=64, **sizes))
    return module


def _noise() -> AbstractContextManager[Any]:
    """Published code draws the noise that imtok's evaluation takes, for each image."""
    return patch("torch.randn_like", lambda maps: steady_noise(maps[0]).expand_as(maps))


GRIDS: dict[str, Callable[[Path], Iterator[Official]]] = {"wetok": wetok, "simvq": simvq}
