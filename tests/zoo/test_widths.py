"""Families at other widths than those of their cases: any channels in 32 groups, and an odd number of heads."""

import pytest
import torch
from zoo.containers import fabricate, imported, small_config

HEADS = (
    "titok",
    "titok with text",
    "titok continuous",
    "one_d_piece",
    "gigatok",
    "flextok",
    "bsq_vit",
    "vfmtok",
    "xqgan",
    "tokenset",
    "hita",
    "alit",
    "karl",
    "alitok",
    "semanticist",
)
CHANNELS = (
    "llamagen",
    "taming",
    "taming with Gumbel-softmax",
    "ldm",
    "ibq",
    "open_magvit2",
    "wetok",
    "simvq",
    "rq_vae",
    "var",
    "maskgit_vqgan",
    "maskbit",
    "titok",
    "gigatok",
    "flextok",
    "tokenset",
    "fqgan",
    "hita",
    "uniwetok",
    "vfmtok",
)


def changed(value, change):
    """A config of which ``change`` has seen every section, the innermost first."""
    if isinstance(value, list):
        return [changed(one, change) for one in value]
    if not isinstance(value, dict):
        return value
    return change({key: changed(inner, change) for key, inner in value.items()})


def with_heads(number):
    """Transformers of one head of 64 channels get so many, and what is as wide as they are grows with them."""

    def change(section):
        single = section.get("width") == 64 and section.get("heads") == 1
        new = {"width": 64 * number, "heads": number} if single else {}
        new |= {key: 64 * number for key in ("latent_width", "feature_dim") if section.get(key) == 64}
        return section | new

    return change


def with_channels(number):
    """Maps of 32 channels in 32 groups get so many channels. From 128 on the groups are the usual ones."""

    def change(section):
        if (section.get("channels"), section.get("groups")) != (32, 32):
            return section
        kept = {key: value for key, value in section.items() if key != "groups" or number < 128}
        heads = {"heads": 2 * number // 64} if "branches" in section else {}  # FQGAN attends to its lowest map
        return kept | {"channels": number} | heads

    return change


def is_read(name, change, folder):
    """Compare an import with the tokenizer whose weights are in the file."""
    small = small_config(name)
    config = changed(small, change)
    assert config != small
    tokenizer, _, path = fabricate(name, folder, config)
    found = imported(name, path).tokenizer
    assert found.config == config
    expected = tokenizer.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in found.state_dict().items())


@pytest.mark.parametrize("name", HEADS)
def test_three_heads_of_64_channels(name, tmp_path):
    is_read(name, with_heads(3), tmp_path)


@pytest.mark.parametrize("number", [64, pytest.param(128, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CHANNELS)
def test_channels_of_maps(name, number, tmp_path):
    is_read(name, with_channels(number), tmp_path)


def test_three_heads_of_fqgan(tmp_path):
    is_read("fqgan", with_channels(96), tmp_path)
