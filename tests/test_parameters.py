"""Parameters of whole recipes at their published size, on the meta device, against the official modules'.

Counted are the modules that a saved tokenizer holds, frozen spaces apart. Where the official number holds more, the
difference is written out here.
"""

from functools import cache

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from imtok.build import build_tokenizer
from imtok.config import register_schemas
from imtok.folders import config_folder

TOTALS = {
    "titok_l32": 641_054_735,
    "titok_b64": 204_814_095,
    "titok_s128": 83_674_639,
    "one_d_piece_s256": 83_871_247,
    "one_d_piece_b256": 205_256_463,
    "one_d_piece_l256": 641_742_863,
    "tokenset": 203_322_383,
    "gigatok_ss": 129_252_619,
    "gigatok_sb": 218_236_939,
    "gigatok_bl": 597_510_923,
    "gigatok_xlxxl": 2_842_052_875,
    "llamagen_vq16": 71_883_403,
    "fqgan_dual": 111_294_355,
    "fqgan_triple": 131_657_883,
    "open_magvit2": 49_751_442 + 65_376_387,
}
PARTS = {
    ("rq_vae", "encoder"): 41_167_104,
    ("rq_vae", "decoder"): 59_040_387,
    ("var", "encoder"): 44_117_120,
    ("var", "decoder"): 64_663_171,
    ("var", "quantizer"): 168_064,
    # with the 1 x 1 convolutions around the quantizer, which are counted apart
    ("fqgan_dual", "encoder"): 68_573_952 + 2 * 2_056,
    ("fqgan_dual", "decoder"): 42_449_795 + 4_352,
    ("fqgan_triple", "encoder"): 88_802_304 + 3 * 2_056,
    ("fqgan_triple", "decoder"): 42_449_795 + 6_400,
    ("simvq", "encoder"): 24_282_496,
    ("simvq", "decoder"): 39_851_907,
    ("mgvq", "encoder"): 87_070_272,
    ("mgvq", "decoder"): 128_688_684,
    ("mgvq", "quantizer"): 32768 * 8,
    **{(recipe, "encoder"): 115_714_856 for recipe in ("tokenflow_stage1", "tokenflow")},
    ("tokenflow_stage1", "decoder"): 42_452_099,
    ("tokenflow", "decoder"): 237_119_491,
    ("tokenflow", "quantizer"): 32768 * (32 + 8),
    ("unitok", "encoder"): 335_578_720 - 1024,  # without positions, which are 0 there and do not learn
    ("unitok", "decoder"): 360_018_275,
    ("unitok", "quantizer"): 262_144,
    ("elm", "encoder"): 29_304_344,
    # without shortcuts of blocks that keep their channels, which are never used, and without the net of variances
    ("elm", "decoder"): 33_729_411,
    ("maskgit_vqgan", "encoder"): 23_775_104,
    ("maskgit_vqgan", "decoder"): 30_478_339,
    ("maskgit_vqgan", "quantizer"): 1024 * 256,
    ("maskbit", "encoder"): 25_126_286,
    ("maskbit", "decoder"): 29_363_203,
    ("vqgan_plus", "encoder"): 25_151_936,
    ("vqgan_plus", "decoder"): 29_593_603,
    ("vqgan_plus", "quantizer"): 4096 * 64,
    ("alitok", "encoder"): 86_288_672,
    ("alitok", "decoder"): 303_479_564,
    ("alitok_stage1", "encoder"): 86_288_672,
    ("alitok_stage1", "decoder"): 304_203_288,
    # at the sizes of WeTok f32
    ("uniwetok", "encoder"): 555_523_200,
    ("uniwetok", "decoder"): 1_061_062_915,
    ("ait_mask", "encoder"): 861_936,
    ("ait_mask", "decoder"): 1_123_457,
    ("ait_depth", "encoder"): 3_320_560,
    ("ait_depth", "decoder"): 4_368_641,
    ("open_magvit2", "encoder"): 49_751_442,
    ("open_magvit2", "decoder"): 65_376_387,
    # with the linear maps around the quantizer, which are counted apart: 768 to 32 or 64, 64 to 768
    **{(recipe, "encoder"): 86_051_328 + 24_608 for recipe in ("imagefolder", "xqgan_msvr")},
    ("robusttok", "encoder"): 86_061_312 + 49_216,
    **{(recipe, "decoder"): 85_865_472 + 49_920 for recipe in ("imagefolder", "xqgan_msvr", "robusttok")},
    # without the net that it reads, with the map of 512 to 12; the decoder with that of 12 to 512 and the CNN,
    # without four register tokens, which nothing sees
    ("vfmtok", "encoder-encoder.net"): 20_377_856 + 6_156,
    ("vfmtok", "decoder"): 19_900_448 - 4 * 512 + 6_656 + 32_799_107,
}

# Millions, to the digits that were published or counted from the official code.
MILLIONS = {
    ("titok_bl64", ""): "390.02",
    ("ta_titok", ""): "390.88",
    ("titok_l32", "decoder.pixels"): "30.48",
    ("bsq_vit", ""): "174.8",
    ("llamagen_vq8", ""): "70.11",
    ("wetok", "encoder"): "198.9",
    ("wetok", "decoder"): "261.4",
    ("wetok_generative", "encoder"): "720.2",
    ("wetok_generative", "decoder"): "953.5",
    ("hita", "encoder.trunk_all"): "9.47",
    ("hita", "encoder.trunk_causal"): "9.47",
    ("hita", "decoder.trunk"): "9.47",
    ("instella_1d", ""): "427.8",
    ("semanticist", "encoder"): "86.25",
}

# Millions of the official count; what it holds that ours does not.
WITH = {
    # the convolutions around the codebook are counted apart
    ("vqgan_taming", "encoder"): ("29.30", -65_792),
    ("vqgan_taming", "decoder"): ("42.45", -65_792),
    ("ibq", "encoder"): ("46.75", -65_792),
    ("ibq", "decoder"): ("59.90", -65_792),
    # the alignment MLP, which is thrown away after training: GigaTok S-S with it has 136,073,227
    ("retok", ""): ("136.3", 136_073_227 - 129_252_619),
    # the vector that stands for a missing text, which the published net does not know
    ("ta_titok_kl", ""): ("390.28", -768),
    # the fixed sines and cosines of 256 patches, stored as a parameter; of 64 in Semanticist
    ("flextok_d12", "encoder"): ("85.4", 256 * 768),
    ("flextok_d12", "decoder"): ("172.4", 256 * 768),
    ("flextok_d18", "encoder"): ("287.3", 256 * 1152),
    ("flextok_d18", "decoder"): ("578.6", 256 * 1152),
    ("flextok_d18_d28", "decoder"): ("2169.7", 256 * 1792),
    ("semanticist", "decoder"): ("457.1", 64 * 1024),
    # both without the frozen net's codebook and decoder, which make the pixels
    ("alit", "encoder+decoder"): ("207.5", -262_144 - 30_478_339),
    # the same, and rows of latents and of their positions for 512 of which 256 are ever used
    ("karl", "encoder+decoder"): ("216.3", -262_144 - 30_478_339 + 2 * 256 * 1024),
}


@cache
def built(recipe):
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=[f"experiment={recipe}", "data.path=somewhere"])
    with torch.device("meta"):
        return build_tokenizer(OmegaConf.to_container(config, resolve=True))


def count(module: nn.Module):
    return sum(parameter.numel() for parameter in module.parameters())


def parameters(recipe, parts):
    tokenizer = built(recipe)
    if parts:
        whole, *inside = parts.split("-")
        added = sum(count(tokenizer.get_submodule(part)) for part in whole.split("+"))
        return added - sum(count(tokenizer.get_submodule(part)) for part in inside)
    return count(tokenizer) - (count(tokenizer.space) if tokenizer.space is not None else 0)


@pytest.mark.parametrize("recipe", TOTALS)
def test_the_total_is_the_official_one_to_the_last_parameter(recipe):
    assert parameters(recipe, "") == TOTALS[recipe]


@pytest.mark.parametrize(("recipe", "part"), PARTS)
def test_each_part_has_the_official_number(recipe, part):
    assert parameters(recipe, part) == PARTS[recipe, part]


@pytest.mark.parametrize(("recipe", "part"), MILLIONS)
def test_it_is_as_large_as_published(recipe, part):
    assert millions(parameters(recipe, part), MILLIONS[recipe, part]) == MILLIONS[recipe, part]


@pytest.mark.parametrize(("recipe", "part"), WITH)
def test_it_is_as_large_as_published_with_what_is_counted_there(recipe, part):
    published, difference = WITH[recipe, part]
    assert millions(parameters(recipe, part) + difference, published) == published


def millions(number, like):
    """In millions, to as many digits after the point as ``like`` has."""
    return f"{number / 1e6:.{len(like.partition('.')[2])}f}"


@pytest.mark.parametrize("size", ["s128", "b64", "l32"])
def test_both_stages_of_titok_have_the_same_weights(size):
    """Stage 2 starts from stage 1 by name."""
    first, second = (
        {name: value.shape for name, value in built(f"titok_{size}{stage}").state_dict().items()}
        for stage in ("_stage1", "")
    )
    assert first == second
