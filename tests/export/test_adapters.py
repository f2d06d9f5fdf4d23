"""Generators call a tokenizer as they call their own, and get its own latents, ids and images."""

import pytest
import torch
from export.stores import tokenizer_of

from imtok.errors import InputError
from imtok.export.adapters import LlamaGenModel, TamingModel, TiTokModel
from imtok.export.sequences import Sequencing


@pytest.fixture(params=["one slot", "two slots"])
def tokenizer(request):
    return tokenizer_of(request.param)


@pytest.fixture
def image():
    return torch.rand(3, 3, 16, 16) * 2 - 1


@torch.no_grad()
def test_llamagens_extraction_and_sampling(tokenizer, image):
    model = LlamaGenModel(tokenizer)
    quant, _, [_, _, indices] = model.encode(image)  # as extract_codes_c2i.py
    codes = indices.reshape(len(image), -1)
    ids = tokenizer.encode(image).ids
    assert torch.equal(
        codes, torch.from_numpy(Sequencing(tokenizer.quantizer.vocab_sizes, 4, "combine", False).join(ids.numpy()))
    )
    expected = tokenizer(image).image.clamp(-1, 1)
    assert torch.equal(model.decode_code(codes, [3, quant.shape[1], 2, 2]), expected)  # as sample_c2i.py
    assert torch.equal(model.quantize.get_codebook_entry(indices, quant.shape, channel_first=True), quant)
    flat = model.quantize.get_codebook_entry(indices)
    assert torch.equal(flat, quant.permute(0, 2, 3, 1).reshape(-1, quant.shape[1]))


@torch.no_grad()
def test_tamings_transformer(tokenizer, image):
    model = TamingModel(tokenizer)
    quant, _, info = model.encode(image)  # Net2NetTransformer.encode_to_z
    indices = info[2].view(quant.shape[0], -1)
    shape = quant.shape
    entries = model.quantize.get_codebook_entry(indices.reshape(-1), shape=(shape[0], shape[2], shape[3], shape[1]))
    assert torch.equal(entries, quant)
    assert torch.equal(model.decode(entries), tokenizer(image).image.clamp(-1, 1))


def test_a_model_stays_in_evaluation_mode_and_takes_a_folder(tmp_path):
    tokenizer_of("one slot").save(tmp_path)
    model = TamingModel(tokenizer=str(tmp_path)).train()
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_what_is_no_token_and_what_has_no_map_are_refused(tokenizer):
    model = LlamaGenModel(tokenizer)
    with pytest.raises(ValueError, match=r"tokens must lie in \[0, \d+\), got 0 to 640"):
        model.decode_code(torch.tensor([[0, 1, 2, 640]]))
    with pytest.raises(ValueError, match=r"tokens must be whole numbers, got torch.float32; give tokens.long\(\)"):
        model.decode_code(torch.full((1, 4), 0.5))
    variable = LlamaGenModel(tokenizer_of("variable"), image_size=16)
    with pytest.raises(InputError, match="has no fixed map"):
        variable.encode(torch.zeros(1, 3, 16, 16))


@torch.no_grad()
def test_the_code_of_1d_tokenizer_encodes_and_decodes(tokenizer, image):
    model, pixels = TiTokModel(tokenizer), (image + 1) / 2
    z_quantized, found = model.encode(pixels)
    ids = tokenizer.encode(pixels * 2 - 1).ids
    expected = Sequencing(tokenizer.quantizer.vocab_sizes, 4, "combine", False).join(ids.numpy())
    input_tokens = model.encode(pixels)[1]["min_encoding_indices"].reshape(pixels.shape[0], -1)  # train_utils.py
    assert torch.equal(input_tokens, torch.from_numpy(expected))
    assert found["min_encoding_indices"].shape == (3, 1, 4)
    assert z_quantized.shape[2:] == (1, 4)
    assert sum(loss.item() for name, loss in found.items() if name.endswith("loss")) == 0
    shown = (tokenizer(pixels * 2 - 1).image.clamp(-1, 1) + 1) / 2
    generated_tokens = found["min_encoding_indices"]
    for image_ in (
        model.decode_tokens(generated_tokens.view(generated_tokens.shape[0], -1)),  # demo_util.py
        model.decode_tokens(generated_tokens),  # its README
        model.decode(z_quantized),
        model(pixels)[0],
    ):
        assert torch.equal(image_, shown)
        assert 0 <= image_.min() <= image_.max() <= 1


def test_images_of_another_range_and_tokens_of_another_number_are_refused(tokenizer):
    model = TiTokModel(tokenizer).train()
    assert not model.model.tokenizer.training
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\] here, got -1 to -1"):
        model.encode(-torch.ones(1, 3, 16, 16))
    for shape in ((2, 5), (2, 2, 4)):
        with pytest.raises(ValueError, match="tokens must be b 4, or b 1 4, got"):
            model.decode_tokens(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            torch.full((1, 3, 16, 16), 255.0),
            r"images must lie in \[-1, 1\], got values from 255 to 255; give tokenizer.preprocess",
        ),
        (torch.full((1, 3, 16, 16), float("nan")), "latents must be finite"),
    ],
)
def test_what_is_no_image_gets_no_tokens_here_either(tokenizer, image, message):
    with pytest.raises(ValueError, match=message):
        LlamaGenModel(tokenizer).encode(image)
    with pytest.raises(ValueError, match=r"images must lie in|latents must be finite"):
        TiTokModel(tokenizer).encode(image)
