"""What no shape tells: heads, groups of norms, length of codes. It is told, or assumed and said."""

import copy
from argparse import Namespace

import pytest
import torch
from zoo.containers import CASES, compose, published
from zoo.writers import with_averages

from imtok.errors import InputError
from imtok.tokenizer import Tokenizer
from imtok.zoo.importing import import_checkpoint
from imtok.zoo.registry import SOURCES


def fabricated(source, path, recipe, changes, **more):
    """A small tokenizer of other settings, and its file as the source writes it."""
    config = copy.deepcopy(published(recipe))
    for section, settings in changes.items():
        config[section] = config[section] | settings if isinstance(settings, dict) else settings
    torch.manual_seed(1)
    tokenizer = Tokenizer.from_config(config).eval()
    table = SOURCES[source].table(config)
    tensors = table.inverse().convert(tokenizer.state_dict()).tensors
    torch.save({"model": tensors, "state_dict": tensors} | more, path)
    return tokenizer


def imported(source, path, **given):
    return import_checkpoint(SOURCES[source], path, compose, given=given)


def same_images(one, other, side=32):
    image = torch.rand(1, 3, side, side) * 2 - 1
    with torch.no_grad():
        return torch.equal(one(image).image, other(image).image)


LLAMAGEN = ["experiment=llamagen_vq16"]
CODES = {"codebook_size": 50}


def cnn(channels, **more):
    return {"channels": channels, "multipliers": [1, 2], "blocks": 1, **more}


@pytest.mark.parametrize(("channels", "groups", "said"), [(32, 32, True), (64, 32, True), (128, None, False)])
def test_norms_have_32_groups_at_every_width_as_in_the_public_code(tmp_path, channels, groups, said):
    net = cnn(channels, groups=groups)
    own = fabricated("llamagen", tmp_path / "a.pt", LLAMAGEN, {"encoder": net, "decoder": net, "quantizer": CODES})
    found = imported("llamagen", tmp_path / "a.pt")
    assert same_images(found.tokenizer, own)
    assert any("32 groups in each norm" in words for words in found.assumed) == said
    assert found.kept == "live weights, entry model of the file"


def test_other_groups_are_told(tmp_path):
    net = cnn(48, groups=8)
    own = fabricated("llamagen", tmp_path / "a.pt", LLAMAGEN, {"encoder": net, "decoder": net, "quantizer": CODES})
    with pytest.raises(
        InputError, match=r"32 groups do not divide the channels of the convolutions \(48, 96\); give gr"
    ):
        imported("llamagen", tmp_path / "a.pt")
    found = imported("llamagen", tmp_path / "a.pt", groups=8)
    assert same_images(found.tokenizer, own)
    assert not any("groups" in words for words in found.assumed)


@pytest.mark.parametrize("attention", ["none", "lowest", [0], [0, 1]])
def test_levels_with_attention_are_read_off_the_keys(tmp_path, attention):
    net = cnn(32, groups=32, attention=attention)
    recipe = CASES["taming"].recipe
    own = fabricated("taming", tmp_path / "a.ckpt", recipe, {"encoder": net, "decoder": net, "quantizer": CODES})
    found = imported("taming", tmp_path / "a.ckpt").tokenizer
    assert found.config["encoder"]["attention"] == found.config["decoder"]["attention"] == attention
    assert same_images(found, own)


@pytest.mark.parametrize(
    ("told", "given", "length"), [(False, {}, False), (None, {}, True), (None, {"normalize": False}, False)]
)
def test_the_length_of_codes_is_that_of_the_files_own_arguments_or_told(tmp_path, told, given, length):
    net = cnn(32, groups=32)
    changes = {"encoder": net, "decoder": net, "quantizer": CODES | {"normalize": length}}
    arguments = {} if told is None else {"args": Namespace(codebook_l2_norm=told, lr=1e-4)}
    own = fabricated("llamagen", tmp_path / "a.pt", LLAMAGEN, changes, **arguments)
    found = imported("llamagen", tmp_path / "a.pt", **given)
    assert found.tokenizer.config["quantizer"]["normalize"] == length
    assert same_images(found.tokenizer, own)
    assert any("codes of unit length" in words for words in found.assumed) == (told is None and not given)


@pytest.mark.parametrize(("width", "heads", "given"), [(96, 3, 3), (64, 2, 2), (128, 2, None)])
def test_heads_are_told_or_one_per_64_channels(tmp_path, width, heads, given):
    recipe = CASES["bsq_vit"].recipe
    trunk = {"width": width, "depth": 1, "heads": heads, "patch_size": 4}
    changes = {"encoder": trunk, "decoder": trunk | {"hidden": 24}, "image_size": 16}
    own = fabricated("bsq_vit", tmp_path / "a.pt", recipe, changes)
    if given is not None:
        plain = "is no multiple of 64; give heads=NUMBER" if width % 64 else None
        if plain:
            with pytest.raises(InputError, match=plain):
                imported("bsq_vit", tmp_path / "a.pt")
        with pytest.raises(InputError, match="heads=7 does not divide"):
            imported("bsq_vit", tmp_path / "a.pt", heads=7)
    found = imported("bsq_vit", tmp_path / "a.pt", **({} if given is None else {"heads": given}))
    assert found.tokenizer.config["encoder"]["heads"] == heads
    assert same_images(found.tokenizer, own, 16)
    assert bool(found.assumed) == (given is None)


def test_a_key_that_a_source_does_not_take_is_refused(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="source=ibq does not take heads; it takes groups"):
        imported("ibq", tmp_path / "a.pt", heads=3)


def test_an_average_of_some_weights_alone_is_refused(tmp_path):
    net = cnn(32, groups=32)
    recipe = CASES["ibq"].recipe
    own = fabricated("ibq", tmp_path / "a.ckpt", recipe, {"encoder": net, "decoder": net, "quantizer": CODES})
    tensors = torch.load(tmp_path / "a.ckpt")["model"]
    whole = with_averages(tensors)
    torch.save({"state_dict": whole}, tmp_path / "whole.ckpt")
    found = imported("ibq", tmp_path / "whole.ckpt")
    assert same_images(found.tokenizer, own)
    assert found.kept == "averages (EMA)"
    del whole["model_ema.decoderconv_inweight"]
    torch.save({"state_dict": whole}, tmp_path / "part.ckpt")
    with pytest.raises(InputError, match=r"the average is not whole: 1 weights have none: decoder\.conv_in\.weight"):
        imported("ibq", tmp_path / "part.ckpt")


@pytest.mark.parametrize(
    ("source", "other", "said"),
    [
        ("open_magvit2", "wetok", r"its codes have 32 bits, as those of WeTok \(source=wetok\) and of BitDance have"),
        (
            "wetok",
            "open_magvit2",
            r"its 18 bits are no whole number of WeTok's groups of 8; .* \(source=open_magvit2\)",
        ),
    ],
)
def test_families_of_the_same_names_are_told_apart_by_their_bits(tmp_path, source, other, said):
    net = cnn(32, groups=32)
    fabricated(other, tmp_path / "a.ckpt", CASES[other].recipe, {"encoder": net, "decoder": net})
    with pytest.raises(InputError, match=said):
        imported(source, tmp_path / "a.ckpt")
    assert any("groups of 8 bits" in words for words in imported("wetok", write_wetok(tmp_path)).assumed)


def write_wetok(folder):
    net = cnn(32, groups=32)
    fabricated("wetok", folder / "b.ckpt", CASES["wetok"].recipe, {"encoder": net, "decoder": net})
    return folder / "b.ckpt"
