"""The file of MaskGIT's tokenizer as a tokenizer, and as the frozen net whose codes others learn from."""

import pytest
import torch
from zoo.containers import fabricate, imported

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


def test_a_codebook_that_is_missing_makes_no_bits_of_wide_latents(tmp_path):
    _, tensors, path = fabricate("maskbit with a codebook", tmp_path)
    wide = {name: torch.zeros(64, *tensors[name].shape[1:]) for name in tensors if name.startswith("encoder.conv_out.")}
    kept = {name: value for name, value in tensors.items() if name != "quantize.embedding.weight"}
    torch.save(kept | wide, path)
    with pytest.raises(InputError, match=r"quantize.embedding.weight is missing, and 64 channels are no bits"):
        imported("maskbit", path)


def test_ids_of_maskbit_count_from_the_first_bit_as_its_code_does(tmp_path):
    _, _, path = fabricate("maskbit", tmp_path)
    codes = torch.load(path, weights_only=True)["quantize.codebook"]
    (table,) = imported("maskbit", path).tokenizer.quantizer.codebook()
    assert torch.equal(table, codes)
