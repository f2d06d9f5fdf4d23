"""What only a checkpoint of ELM has."""

import pytest
import torch
from zoo.containers import CASES, compose, fabricate, imported

from imtok.errors import InputError
from imtok.zoo.importing import import_checkpoint
from imtok.zoo.registry import SOURCES


def told(path, slots):
    return import_checkpoint(SOURCES["elm"], path, compose, given={"slots": slots})


def test_bits_are_as_many_sub_codes_as_the_user_says(tmp_path):
    _, _, path = fabricate("elm with two codes", tmp_path)
    assert "2 sub-codes of 9 bits, as its generators read them (slots=NUMBER)" in imported("elm", path).assumed
    three, two = told(path, 3), imported("elm", path)
    assert three.tokenizer.config["quantizer"]["slot_bits"] == [6, 6, 6]
    assert not any("slots" in words for words in three.assumed)
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    first, second = two.tokenizer.encode(image).ids.unbind(-1)
    low, middle, high = three.tokenizer.encode(image).ids.unbind(-1)
    assert torch.equal(first + 2**9 * second, low + 2**6 * middle + 2**12 * high)


def test_sub_codes_that_do_not_divide_the_bits_are_refused(tmp_path):
    _, _, path = fabricate("elm with two codes", tmp_path)
    with pytest.raises(InputError, match="4 sub-codes do not divide 18 bits; give slots=NUMBER"):
        told(path, 4)


def test_a_decoder_without_a_norm_in_front_is_refused(tmp_path):
    _, tensors, path = fabricate("elm", tmp_path)
    CASES["elm"].write(tensors | {"generator.blocks.0.weight": torch.zeros(64, 32, 3, 3)}, path)
    with pytest.raises(InputError, match=r"generator.blocks.0 is no norm, .* \(norm_first\)"):
        imported("elm", path)


def test_levels_without_blocks_are_refused(tmp_path):
    _, tensors, path = fabricate("elm", tmp_path)
    changed = tensors | {"encoder.blocks.1.conv.weight": torch.zeros(1)}
    changed |= {"encoder.blocks.2.conv.weight": torch.zeros(1)}
    CASES["elm"].write(changed, path)
    with pytest.raises(InputError, match=r"a level of encoder\.blocks has no residual blocks"):
        imported("elm", path)
