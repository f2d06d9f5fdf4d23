"""Images of little detail are read off a coarse map, and others off a fine one, of one net."""

import numpy as np
import pytest
import torch

from imtok.data.loader import evaluation_loader
from imtok.data.photos import Photos
from imtok.decoders.cat import CATDecoder
from imtok.encoders.cat import CATEncoder
from imtok.measures.allocation import spearman
from imtok.measures.codecs import compress
from imtok.nn.complexity import complexity, cosine_transform
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer
from imtok.types import Condition

NET = {"channels": 16, "multipliers": [1, 1, 1, 1], "finest": 1, "blocks": 1, "attention": "none"}
SCORES = {"thresholds": [0.2, 1.0], "given_thresholds": [4.0, 7.0]}
AMOUNTS = torch.tensor([0.0, 0.3, 1.0])[:, None, None, None]  # of noise: one image for each map


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    parts = {
        "encoder": {"_target_": "imtok.encoders.cat.CATEncoder", **NET, **SCORES},
        "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [5, 5, 5]},
        "decoder": {"_target_": "imtok.decoders.cat.CATDecoder", **NET},
        "image_size": 16,
    }
    return Tokenizer.from_config(parts).eval()


@pytest.fixture
def image():
    return (torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1) * AMOUNTS


def test_its_score_ranks_photographs_as_the_bytes_of_a_jpeg_do():
    batch = next(iter(evaluation_loader(Photos(held_out=["chelsea"]).validation(32), 100, 0)))
    sizes = np.array([compress(one, "jpeg", 50)[1] for one in batch.image], np.float64)
    assert spearman(complexity(to_float(batch.image)).double().numpy(), sizes) > 0.95


def test_the_transform_is_orthonormal_and_begins_with_the_mean():
    rows = cosine_transform(torch.device("cpu"))
    torch.testing.assert_close(rows @ rows.T, torch.eye(8))
    torch.testing.assert_close(rows[0], torch.full((8,), 8**-0.5))


def test_more_detail_gets_more_tokens_and_a_score_from_the_data_comes_first(tokenizer, image):
    assert tokenizer.encode(image).keep.sum(1).tolist() == [4, 16, 64]
    scores = Condition(quality=torch.tensor([8.5, torch.nan, 1.0]))
    assert tokenizer.encode(image, condition=scores).keep.sum(1).tolist() == [64, 16, 4]
    given = tokenizer.encoder(image, condition=Condition(quality=torch.tensor([3.9, 4.0, 7.0])))
    assert given.keep.sum(1).tolist() == [4, 16, 64]


def test_mixed_images_decode_to_what_each_decodes_to_alone(tokenizer, image):
    tokens = tokenizer.encode(image)
    together = tokenizer.decode(tokens)
    for row, number in enumerate((4, 16, 64)):
        alone = tokenizer.encode(image[row : row + 1], length=number)
        assert alone.keep is None
        assert torch.equal(alone.ids[0], tokens.ids[row, :number])
        torch.testing.assert_close(tokenizer.decode(alone)[0], together[row])
    torch.testing.assert_close(together, tokenizer(image).image.clamp(-1, 1))
    assert not torch.allclose(together[:1], together[1:2])


def test_each_map_learns_where_it_is_read(tokenizer, image):
    tokenizer.train()
    tokenizer(image).image.square().mean().backward()
    assert all(one.grad is not None for one in tokenizer.parameters())
    assert all(any(one.grad.any() for one in level.parameters()) for level in tokenizer.encoder.coarser)
    tokenizer.zero_grad()
    tokenizer(image[2:]).image.square().mean().backward()  # the finest map alone
    assert not any(one.grad.any() for one in tokenizer.encoder.coarser.parameters())


def test_other_numbers_are_refused(tokenizer, image):
    with pytest.raises(ValueError, match="length must be one of 64, 16, 4 latents, got 8"):
        tokenizer.encode(image, length=8)
    with pytest.raises(ValueError, match="latents must be between 4 and 64 for an image of 16 x 16, got 3"):
        tokenizer.decode(torch.zeros(1, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="thresholds must be 2 ascending scores, one fewer than maps"):
        CATEncoder(3, **NET, thresholds=[2.0, 1.0], given_thresholds=[1.0, 2.0])
    with pytest.raises(ValueError, match="multipliers from level finest on must be two or more and equal"):
        CATDecoder(3, multipliers=(1, 1, 2), finest=1)
