"""Programs, published folders and models of other code whose tokenizer is told something of each image."""

from dataclasses import replace

import pytest
import torch
from export.conditioned import karl
from measures.conditioned import CAPTIONS, CONFIG, noted

from imtok.conditions.quality import Quality
from imtok.errors import InputError
from imtok.export.adapters import LlamaGenModel, TiTokModel
from imtok.export.programs import write_programs
from imtok.export.publish import publish
from imtok.export.quantize import compare_psnr, latents_of
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    return Tokenizer.from_config(CONFIG | {"decoder": CONFIG["decoder"] | {"flexible": False}}).eval()


def test_a_published_folder_has_programs_that_take_features_and_mask(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "saved")
    assert publish(tmp_path / "saved", tmp_path / "hub") == {}
    condition = tokenizer.condition_for(4, CAPTIONS)
    told = {"text": condition.text.detach(), "mask": condition.mask}
    ids = torch.export.load(tmp_path / "hub/encoder.pt2").module()(IMAGES, **told)
    tokens = tokenizer.encode(IMAGES, condition=condition)
    assert torch.equal(ids, tokens.ids)
    images = torch.export.load(tmp_path / "hub/decoder.pt2").module()(ids, **told)
    torch.testing.assert_close(images, tokenizer.decode(tokens, (32, 32), condition), atol=1e-5, rtol=1e-5)
    card = (tmp_path / "hub/README.md").read_text()
    assert "tokenizer.condition_for(1, captions, labels)" in card
    assert "| told of each image | text, by Words |" in card


def test_a_program_of_karl_takes_a_wanted_quality(tmp_path):
    tokenizer = karl()
    tokenizer.condition = Quality(0.05)
    assert write_programs(tokenizer, tmp_path, (32, 32)) == {}
    program = torch.export.load(tmp_path / "encoder.pt2").module()
    kept = [program(IMAGES, quality=torch.full((4,), wanted))[1].sum() for wanted in (0.02, 0.3)]
    assert kept[0] != kept[1]


def test_models_of_other_code_say_what_they_lack_and_take_it(tokenizer):
    model = LlamaGenModel(tokenizer)
    with pytest.raises(InputError, match="is told the text of each image, and got none"):
        model.encode(IMAGES)
    model.condition = tokenizer.condition_for(4, CAPTIONS)
    quant, _, (_, _, indices) = model.encode(IMAGES)
    tokens = tokenizer.encode(IMAGES, condition=model.condition)
    expected = tokenizer.decode(tokens, (32, 32), model.condition)
    assert torch.equal(model.decode_code(indices, quant.shape), expected)


def test_the_model_of_ta_titok_takes_text_guidance_for_one_call(tokenizer):
    model, condition = TiTokModel(tokenizer), tokenizer.condition_for(4, CAPTIONS)
    tokens = model.encode((IMAGES + 1) / 2, condition.text)[1]["min_encoding_indices"]
    told = [model.decode_tokens(tokens, text) for text in (condition.text, condition.text.flip(0))]
    assert not torch.equal(*told)
    with pytest.raises(InputError, match="is told the text of each image, and got none"):
        model.decode_tokens(tokens)


def test_a_quantizer_is_fitted_and_measured_with_the_captions(tokenizer):
    continuous = {"_target_": "imtok.quantizers.continuous.Continuous", "dim": 6}
    tokenizer = Tokenizer.from_config((tokenizer.config or {}) | {"quantizer": continuous}).eval()
    told = [noted(tokenizer.encoder), noted(tokenizer.decoder)]
    image = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    batch = Batch(image, torch.full((4,), -1), torch.arange(4), list("abcd"), caption=CAPTIONS)
    cpu = torch.device("cpu")
    assert latents_of(tokenizer, [batch], cpu, most=3)[1] == 3
    compare_psnr(tokenizer, {"own": tokenizer.quantizer}, [batch], cpu)
    assert [len(condition.text) for condition in told[0]] == [3, 4]
    assert all(condition.mask.any(1).all() for conditions in told for condition in conditions)
    with pytest.raises(InputError, match="a has no caption"):
        latents_of(tokenizer, [replace(batch, caption=[])], cpu, most=3)
