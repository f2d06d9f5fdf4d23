"""Images of little detail are read off a coarse map, and others off a fine one, of one net."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dctn

from imtok.data.order.loader import evaluation_loader
from imtok.data.sources.photos import Photos
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


def test_its_score_is_the_code_length_of_what_a_jpeg_of_quality_50_keeps():
    file, image = io.BytesIO(), torch.rand(2, 3, 19, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    Image.new("L", (8, 8)).save(file, "JPEG", quality=50)
    steps = np.array(Image.open(file).quantization[0]).reshape(8, 8)
    luma = np.einsum("bchw,c->bhw", image.double().numpy(), [0.299, 0.587, 0.114])[:, :16] * 127.5
    blocks = luma.reshape(2, 2, 8, 3, 8).swapaxes(2, 3)
    bits = 2 * np.log2(1 + np.abs((dctn(blocks, axes=(3, 4), norm="ortho") / steps).round())).mean((1, 2, 3, 4))
    torch.testing.assert_close(complexity(image).double(), torch.from_numpy(bits), rtol=1e-5, atol=1e-5)
    maps = torch.rand(2, 5, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(complexity(maps), complexity(maps.mean(1, keepdim=True)))


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


@pytest.mark.parametrize("number", [4, 16, 64])
def test_the_image_depends_on_each_latent_of_its_map_and_on_no_other(tokenizer, number):
    latents = torch.randn(1, 64, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    keep = torch.arange(64)[None] < number
    tokenizer.decoder(latents, (16, 16), keep).square().sum().backward()
    assert torch.equal(latents.grad.abs().sum(-1) > 0, keep)


def test_images_that_are_no_squares_have_maps_of_their_shape(tokenizer):
    wide = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert tokenizer.encoder.counts((16, 24)) == (96, 24, 6)
    for number in (96, 24, 6):
        tokens = tokenizer.encode(wide, length=number)
        assert tokens.ids.shape[1] == number
        assert tokenizer.decode(tokens, (16, 24)).shape == wide.shape
    with torch.no_grad():
        tokenizer.encoder.thresholds = (0.0, 1.0)
        assert tokenizer.encoder.level(0 * wide).tolist() == [1]  # its score is not below the first


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
