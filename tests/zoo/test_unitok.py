"""What only a checkpoint of UniTok has."""

import pytest
import torch
from zoo.containers import CASES, fabricate, imported

from imtok.errors import InputError
from imtok.zoo.files import read_checkpoint
from imtok.zoo.registry import SOURCES


def test_weights_and_image_size_are_found_beside_the_critic_and_the_arguments(tmp_path):
    _, _, path = fabricate("unitok", tmp_path)
    found = imported("unitok", path)
    assert found.tokenizer.image_size == 32
    assert "live weights, entry trainer.unitok of the file" in found.kept
    assert any("of all tokens, as in the files since April 2025" in words for words in found.assumed)
    dropped = SOURCES["unitok"].table(found.tokenizer.config).convert(_weights(path)).dropped
    assert set(dropped.values()) == {
        "positions, all 0", "bias of the keys, all 0", "use of the codes", "contrast with captions"
    }  # fmt: skip


def test_weights_alone_are_read_too_at_the_size_of_the_recipe(tmp_path):
    tokenizer, _, path = fabricate("unitok", tmp_path)
    torch.save(_weights(path), path)
    found = imported("unitok", path).tokenizer
    assert found.image_size == 256
    assert all(torch.equal(value, tokenizer.state_dict()[key]) for key, value in found.state_dict().items())


def test_positions_that_are_not_zero_are_refused(tmp_path):
    _, tensors, path = fabricate("unitok", tmp_path)
    torch.save(tensors | {"encoder.pos_embed": torch.ones(1, 1, 64)}, path)
    with pytest.raises(InputError, match=r"encoder.pos_embed must be 0, since the public net has no positions"):
        imported("unitok", path)


def test_the_family_shows_in_names_that_lie_deep(tmp_path):
    _, tensors, path = fabricate("unitok", tmp_path)
    assert SOURCES["unitok"].recognizes(read_checkpoint(path).names())
    CASES["unitok"].write(dict(list(tensors.items())[:3]), path)
    assert not SOURCES["unitok"].recognizes(read_checkpoint(path).names())


def _weights(path):
    return torch.load(path, weights_only=True)["trainer"]["unitok"]
