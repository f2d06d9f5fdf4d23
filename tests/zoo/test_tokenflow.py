"""What only a checkpoint of TokenFlow has."""

import pytest
import torch
import torch.nn.functional as F
from zoo.containers import CASES, compose, fabricate, imported

from imtok.errors import InputError
from imtok.zoo.importing import import_checkpoint
from imtok.zoo.registry import SOURCES

SCALES = [1, 2, 4, 6, 8, 10, 12, 14]


def sized(path, image_size):
    return import_checkpoint(SOURCES["tokenflow"], path, compose, image_size=image_size)


def test_larger_images_have_one_scale_more_and_positions_as_its_code_resizes_them(tmp_path):
    _, tensors, path = fabricate("tokenflow", tmp_path)
    said = "scales with 1, 2, 4, 6, 8, 10, 12, 14 codes a side, as in its code (image_size=32 for its generator)"
    assert said in imported("tokenflow", path).assumed
    found = sized(path, 32)
    assert not any("image_size" in words for words in found.assumed)
    assert found.tokenizer.config["quantizer"]["sizes"] == [*SCALES, 16]
    assert found.tokenizer.encode(torch.rand(1, 3, 32, 32) * 2 - 1).ids.shape == (1, 561 + 256, 1)
    table, net = tensors["encoder_vqkd.positional_embedding"], found.tokenizer.encoder.semantic.net
    maps = table[1:].mT.reshape(1, 64, 14, 14)
    expected = F.interpolate(maps, scale_factor=(16.1 / 14, 16.1 / 14), mode="bicubic")
    assert torch.equal(net.positions.table, expected.flatten(2).mT[0])
    assert torch.equal(net.class_position, table[:1])


def test_images_that_no_scales_fill_are_refused(tmp_path):
    _, _, path = fabricate("tokenflow", tmp_path)
    with pytest.raises(InputError, match="its scales fill images of 28 or 32 pixels and no others, got 36"):
        sized(path, 36)


def test_a_net_for_meaning_that_is_not_clip_is_named(tmp_path):
    _, tensors, path = fabricate("tokenflow", tmp_path)
    others = {name: value for name, value in tensors.items() if not name.startswith("encoder_vqkd.")}
    CASES["tokenflow"].write(others | {"encoder_vqkd.vision_model.head.probe": torch.ones(1, 1, 3)}, path)
    with pytest.raises(
        InputError, match="its net for meaning is SigLIP or ViTamin, and imtok reads TokenFlow with CLIP"
    ):
        imported("tokenflow", path)


def test_tables_of_different_numbers_of_codes_are_refused(tmp_path):
    _, tensors, path = fabricate("tokenflow", tmp_path)
    name = "quantize.embedding_vqgan.weight"
    CASES["tokenflow"].write(tensors | {name: tensors[name][:40]}, path)
    with pytest.raises(
        InputError, match=r"parts must have one shape apart from the axis that is joined, got \[\[50\], \[40\]\]"
    ):
        imported("tokenflow", path)
