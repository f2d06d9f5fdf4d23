"""The file of MaskGIT's tokenizer as a tokenizer, and as the frozen net whose codes others learn from."""

import pytest
import torch
from zoo.containers import CASES, fabricate, imported

from imtok.errors import InputError
from imtok.nn.norms import set_groups
from imtok.spaces.maskgit import MaskGIT


def test_the_tokenizer_and_the_frozen_net_of_one_file_are_the_same(tmp_path):
    _, _, path = fabricate("maskgit_vqgan", tmp_path)
    tokenizer = imported("maskgit_vqgan", path).tokenizer
    space = MaskGIT(str(path), channels=32, multipliers=(1, 2), codes=50, code_dim=12)
    set_groups(space, 32)  # few channels have fewer groups unless told
    space.read_weights(path)
    image = torch.rand(2, 3, 16, 32) * 2 - 1
    values = tokenizer.encoder(image).values
    assert torch.equal(values, space.encode(image).flatten(2).mT)
    assert torch.equal(tokenizer.encode(image).ids[..., 0], space.ids(image))
    found = tokenizer.decoder(values, size=(16, 32))
    assert torch.equal(found, space.decode(space.encode(image)))


def test_nets_of_the_same_names_that_halve_by_convolutions_are_refused(tmp_path):
    _, tensors, path = fabricate("maskgit_vqgan of maskbit", tmp_path)
    halving = {"encoder.down.0.down_conv.weight": torch.zeros(64, 64, 3, 3)}
    CASES["maskgit_vqgan of maskbit"].write(tensors | halving, path)
    with pytest.raises(InputError, match="it halves its maps by convolutions, as VQGAN"):
        imported("maskgit_vqgan", path)
