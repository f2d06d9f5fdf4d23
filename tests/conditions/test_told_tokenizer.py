"""What a tokenizer tells its encoder and its decoder, and what it says where it is told nothing."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from imtok.conditions.label import Label
from imtok.conditions.quality import Quality
from imtok.conditions.words import Words
from imtok.decoders.patch import PatchDecoder
from imtok.encoders.patch import PatchEncoder
from imtok.errors import InputError
from imtok.quantizers.fsq import FSQ
from imtok.tokenizer import Tokenizer
from imtok.types import Batch, Condition

NARROW = {"width": 16, "depth": 1, "heads": 2}


class Told(nn.Module):
    """Notes the condition that a part is called with."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.told = []

    def forward(self, *arguments):
        self.told.append(arguments[-1])
        return super().forward(*arguments)


class ToldEncoder(Told, PatchEncoder):
    pass


class ToldDecoder(Told, PatchDecoder):
    pass


def test_a_condition_reaches_encoder_and_decoder_by_every_way():
    sizes = {"patch_size": 8, "width": 16, "depth": 1}
    tokenizer = Tokenizer(ToldEncoder(4, **sizes), FSQ([8, 5, 5, 5]), ToldDecoder(4, **sizes)).eval()
    image, condition = torch.zeros(1, 3, 32, 32), Condition(label=torch.tensor([3]))
    tokenizer(image, condition=condition)
    tokenizer.decode(tokenizer.encode(image, condition=condition), (32, 32), condition)
    assert [given is condition for given in tokenizer.encoder.told] == [True, True]
    assert [given is condition for given in tokenizer.decoder.told] == [True, True]
    tokenizer(image)
    assert tokenizer.encoder.told[-1] is None
    assert tokenizer.decoder.told[-1] is None


def told_tokenizer(condition):
    sizes = {"patch_size": 8, "width": 16, "depth": 1}
    return Tokenizer(ToldEncoder(4, **sizes), FSQ([8, 5, 5, 5]), ToldDecoder(4, **sizes), condition=condition).eval()


def test_a_tokenizer_that_is_told_a_text_says_so_where_it_gets_none():
    tokenizer, image = told_tokenizer(Words()), torch.zeros(2, 3, 32, 32)
    tokens = tokenizer.encode(image, condition=tokenizer.condition_for(2))  # that there is none is a condition
    for call in (tokenizer, tokenizer.encode, tokenizer.quantize, lambda _: tokenizer.decode(tokens, (32, 32))):
        with pytest.raises(InputError, match="is told the text of each image, and got none; give condition=tokenizer"):
            call(image)
    with pytest.raises(InputError, match="captions must be one for each of 2 images, got 1"):
        tokenizer.condition_for(2, ["a fox"])


def test_a_condition_that_is_the_same_for_all_images_need_not_be_given():
    tokenizer, image = told_tokenizer(Quality(0.25)), torch.zeros(2, 3, 32, 32)
    tokenizer.decode(tokenizer.encode(image), (32, 32))
    tokenizer(image)
    for part in (tokenizer.encoder, tokenizer.decoder):
        assert [given.quality.tolist() for given in part.told] == [[0.25, 0.25]] * 2


def test_a_condition_is_made_of_the_captions_and_labels_of_a_batch():
    image, label = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([4, -1])
    batch = Batch(image, label, torch.arange(2), ["a", "b"], caption=["a red fox", ""])
    assert told_tokenizer(None).condition_of(batch) is None
    assert told_tokenizer(Label(5)).condition_of(batch).label.tolist() == [4, -1]
    tokenizer = told_tokenizer(Words(length=2))
    assert tokenizer.condition_of(batch).mask.tolist() == [[True, True], [False, False]]
    assert not tokenizer.condition_of(replace(batch, caption=[])).mask.any()  # as batches without any caption come


def test_what_a_condition_has_learnt_is_saved_with_the_tokenizer(tmp_path):
    config = {
        "encoder": {"_target_": "imtok.encoders.titok.TiTokEncoder", "latents": 4, "patch_size": 8, **NARROW},
        "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 5, 5, 5]},
        "decoder": {"_target_": "imtok.decoders.titok.TiTokPixelDecoder", "patch_size": 8, "context_dim": 6, **NARROW},
        "condition": {"_target_": "imtok.conditions.words.Words", "dim": 6, "length": 3, "buckets": 50},
        "image_size": 32,
    }
    tokenizer = Tokenizer.from_config(config).eval()
    tokenizer.save(tmp_path / "tokenizer")
    again = Tokenizer.load(tmp_path / "tokenizer")
    assert again.config == config
    assert torch.equal(again.condition.table.weight, tokenizer.condition.table.weight)
    image, condition = torch.rand(1, 3, 32, 32) * 2 - 1, again.condition_for(1, ["a red fox"])
    tokens = again.encode(image, condition=condition)
    found = [part.decode(tokens, (32, 32), part.condition_for(1, ["a red fox"])) for part in (tokenizer, again)]
    assert torch.equal(*found)
    assert not torch.equal(found[0], again.decode(tokens, (32, 32), again.condition_for(1, ["a blue fox"])))
