"""MAGE's file is MaskGIT's net by other names."""

import re

import pytest
import torch

from imtok.decoders.alit import ALITDecoder
from imtok.decoders.karl import KARLDecoder
from imtok.errors import InputError
from imtok.spaces.vqgan import MAGEVQGAN

SIZE = {"channels": 16, "multipliers": (1, 2), "blocks": 2, "codes": 8, "code_dim": 4}


def published(space, levels=2):
    """Its weights by the names of MAGE's code."""

    def name(key, decoder):
        key = re.sub(r"^upsamplers\.(\d)\.conv", lambda m: f"up.{levels - 1 - int(m[1])}.upsample.conv", key)
        key = re.sub(r"^middle\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
        level = (lambda m: f"up.{levels - 1 - int(m[1])}.block") if decoder else (lambda m: f"down.{m[1]}.block")
        return (
            re.sub(r"^levels\.(\d)", level, key).replace("shortcut", "nin_shortcut").replace("norm_out.0", "norm_out")
        )

    tensors = {f"encoder.{name(key, False)}": value for key, value in space.encoder.state_dict().items()}
    tensors |= {f"decoder.{name(key, True)}": value for key, value in space.decoder.state_dict().items()}
    return tensors | {"quantize.embedding.weight": space.codebook.detach()}


def test_the_published_names_fill_the_net_and_both_decoders(tmp_path):
    source, space = MAGEVQGAN(**SIZE), MAGEVQGAN(**SIZE)
    tensors = published(source)
    assert {"encoder.mid.block_1.norm1.weight", "decoder.up.1.upsample.conv.bias"} <= tensors.keys()
    torch.save(tensors, tmp_path / "vqgan.ckpt")
    space.read_weights(tmp_path / "vqgan.ckpt")
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in space.state_dict().items())
    for decoder in (
        ALITDecoder(12, 8, 4, width=16, depth=1, heads=2, **SIZE),
        KARLDecoder(12, 8, 4, width=16, depth=1, heads=2, **SIZE),
    ):
        decoder.read_weights(tmp_path / "vqgan.ckpt")
        assert torch.equal(decoder.codebook.weight, source.codebook)
        assert all(
            torch.equal(value, source.decoder.state_dict()[key]) for key, value in decoder.pixels.state_dict().items()
        )


def test_a_file_of_another_net_is_refused(tmp_path):
    torch.save(published(MAGEVQGAN(**{**SIZE, "codes": 9})), tmp_path / "vqgan.ckpt")
    with pytest.raises(InputError, match="not a MaskGIT-VQGAN of this size"):
        MAGEVQGAN(**SIZE).read_weights(tmp_path / "vqgan.ckpt")
