"""Ids alone are decoded as tokens are, in any type of whole numbers, and images go in and out as PIL has them."""

import numpy as np
import pytest
import torch
from export.stores import tokenizer_of
from PIL import Image

import imtok


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of("one slot")


@pytest.fixture(scope="module")
def tokens(tokenizer):
    return tokenizer.encode(torch.rand(2, 3, 16, 16) * 2 - 1)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_ids_of_any_type_of_whole_numbers_are_decoded(tokenizer, tokens, dtype):
    wanted = tokenizer.decode(tokens, (16, 16))
    ids = tokens.ids.numpy().astype(dtype)
    ids.flags.writeable = False  # as of a file that is mapped
    for given in (ids, ids[..., 0], torch.tensor(tokens.ids.tolist(), dtype=getattr(torch, dtype))):
        assert torch.equal(tokenizer.decode(given, (16, 16)), wanted)
    assert torch.equal(tokenizer.decode(ids, 16), wanted)
    assert torch.equal(tokenizer.decode(ids), wanted)  # at the size that it was trained on


def test_ids_of_several_slots_have_an_axis_for_them(tokenizer):
    two = tokenizer_of("two slots")
    tokens = two.encode(torch.rand(2, 3, 16, 16) * 2 - 1)
    assert torch.equal(two.decode(tokens.ids.numpy(), (16, 16)), two.decode(tokens, (16, 16)))
    with pytest.raises(ValueError, match=r"ids must be images x tokens x 2 slots, got shape \[2, 4\]"):
        two.decode(tokens.ids[..., 0], (16, 16))


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (np.zeros((1, 4)), "ids must be whole numbers, got float64"),
        (torch.zeros(1, 4), "ids must be whole numbers, got float32"),
        (torch.zeros(1, 4, dtype=torch.bool), "ids must be whole numbers, got bool"),
        (np.zeros(4, int), r"ids must be images x tokens, or images x tokens x 1, got shape \[4\]"),
        (np.zeros((1, 4, 2), int), r"ids must be images x tokens, or images x tokens x 1, got shape \[1, 4, 2\]"),
        (np.full((1, 4), 32), r"ids of slot 0 must lie in \[0, 32\), got 32 to 32"),
        (np.full((1, 4), -1), r"ids of slot 0 must lie in \[0, 32\), got -1 to -1"),
        (np.full((1, 4), 2**63, np.uint64), r"ids of slot 0 must lie in \[0, 32\)"),
        (np.zeros((1, 5), int), "latents must be 4 .* got 5"),
    ],
)
def test_what_are_no_ids_of_this_tokenizer_is_refused(tokenizer, ids, said):
    with pytest.raises(ValueError, match=said):
        tokenizer.decode(ids, (16, 16))


def test_a_pil_image_goes_to_ids_and_back(tokenizer):
    photograph = Image.effect_noise((60, 40), 80).convert("RGBA")
    batch = tokenizer.preprocess([photograph, photograph])
    assert batch.shape == (2, 3, 16, 16)
    assert torch.equal(batch[:1], tokenizer.preprocess(photograph, value_range=(0, 255)))
    again = tokenizer.postprocess(tokenizer.decode(tokenizer.encode(batch).ids))
    assert [image.size for image in again] == [(16, 16)] * 2
    assert tokenizer.preprocess(photograph, size=32).shape == (1, 3, 32, 32)
    exact = tokenizer_of("one slot").double()
    assert exact.preprocess(photograph).dtype == torch.float64


def test_a_size_that_nobody_knows_must_be_given(tokenizer):
    config = {name: part for name, part in tokenizer.config.items() if name != "image_size"}
    open_size = imtok.Tokenizer.from_config(config)
    image = Image.new("RGB", (16, 16))
    for call in (open_size.preprocess, lambda _: open_size.decode(np.zeros((1, 4), int))):
        with pytest.raises(ValueError, match="size must be given: the tokenizer's config does not say"):
            call(image)
    assert open_size.decode(np.zeros((1, 4), int), (16, 16)).shape == (1, 3, 16, 16)
    assert open_size.preprocess(image, size=24).shape == (1, 3, 24, 24)
