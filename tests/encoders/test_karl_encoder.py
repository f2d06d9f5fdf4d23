"""KARL's encoder and decoder: budgets, wanted errors, halting, and a mask of its own for each image."""

from itertools import pairwise

import pytest
import torch
from encoders.alit import SIZE, SPACE
from encoders.waves import wave_image, waves

from imtok.decoders.karl import KARLDecoder
from imtok.encoders.karl import ERRORS, KARLEncoder
from imtok.quantizers.vq import VQ
from imtok.spaces.vqgan import MAGEVQGAN
from imtok.tokenizer import Tokenizer
from imtok.types import Condition


def make(halt_above=0.75):
    space = waves(MAGEVQGAN(**SPACE))
    encoder = KARLEncoder(4, 32, space, latents=6, width=24, depth=1, heads=2, halt_above=halt_above)
    return waves(encoder)


def make_decoder():
    return waves(KARLDecoder(4, 32, 6, width=24, depth=1, heads=2, **SPACE))


def test_the_parameters_are_those_of_the_public_code():
    """216.3 million with its 512 latents, of which it uses 256; without the frozen net, which ours repeats in part."""
    counts = []
    for latents in (512, 256):
        with torch.device("meta"):
            encoder, decoder = KARLEncoder(12, 256, MAGEVQGAN(), latents=latents), KARLDecoder(12, 256, latents)
        named = [*encoder.named_parameters(), *decoder.named_parameters()]
        counts.append(sum(value.numel() for name, value in named if not name.startswith(("pixels", "codebook"))))
    assert counts == [216_346_381, 215_822_093]


def test_the_numbers_are_those_of_the_net_that_was_compared():
    """By hand, with the public module and the same weights, one image at a time."""
    encoder, decoder = make(), make_decoder()
    keep = torch.tensor([[True, False, True, True]])
    with torch.no_grad():
        latents, superfluous = encoder.judge(wave_image(), 4, encoder.level(torch.tensor([0.055])))
        found = [latents[0, 0, :2], superfluous[0, :2], decoder.logits(latents, SIZE, keep)[0, 5, :2]]
    expected = [
        [0.8340182984440759, -1.5637384765848243],
        [-2.5371361418581553, -2.5361546447213144],
        [-0.15592413688255874, 0.03917401332457225],
    ]
    torch.testing.assert_close(torch.stack(found), torch.tensor(expected, dtype=torch.float64), rtol=1e-11, atol=1e-11)


def test_a_wanted_error_is_rounded_up_to_the_next_of_the_table():
    encoder = make()
    for level, error in enumerate(ERRORS):
        assert encoder.level(torch.tensor([error])) == level
        assert encoder.level(torch.tensor([error], dtype=torch.float64)) == level
        assert encoder.level(torch.tensor([error - 0.001])) == level
        assert encoder.level(torch.tensor([error + 0.001])) == min(level + 1, len(ERRORS) - 1)


def test_without_a_wish_the_usual_error_is_wanted():
    encoder, image = make(), wave_image()
    with torch.no_grad():
        usual, same, other = (
            encoder(image, condition=condition).values
            for condition in (None, Condition(quality=torch.tensor([0.05])), Condition(quality=torch.tensor([0.3])))
        )
    assert torch.equal(usual, same)
    assert not torch.allclose(usual, other)
    with pytest.raises(ValueError, match="quality must be a wanted error for each image, 1, got 2"):
        encoder(image, condition=Condition(quality=torch.zeros(2)))


def test_codes_of_a_small_budget_are_no_prefix_of_those_of_a_large_one():
    encoder, image = make(), wave_image()
    with torch.no_grad():
        short, long = encoder(image, length=3).values, encoder(image).values
    assert short.shape == (1, 3, 4)
    assert (long[:, :3] - short).abs().max() > 1e-5
    with pytest.raises(ValueError, match=r"length must lie in \[1, 6\] latents, got 7"):
        encoder(image, length=7)


def test_a_higher_threshold_never_keeps_fewer_latents():
    superfluous = torch.randn(4, 100)
    kept = [make(threshold).keep(superfluous) for threshold in (0.1, 0.5, 0.75, 0.9)]
    assert all((low <= high).all() for low, high in pairwise(kept))
    assert 0 < kept[0].sum() < kept[-1].sum() < 400
    assert make(0.75).keep(torch.tensor([[1.09, 1.11]])).tolist() == [[True, False]]  # log 3 = 1.0986


def test_images_with_unequal_masks_decode_as_alone():
    """The public code gives images of a batch each other's masks."""
    decoder, latents = make_decoder(), torch.randn(3, 6, 4, dtype=torch.float64)
    keep = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]]).bool()
    with torch.no_grad():
        together = decoder(latents, SIZE, keep)
        for row in range(3):
            alone = decoder(latents[row : row + 1], SIZE, keep[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-9, atol=1e-9)
        assert not torch.allclose(together, decoder(latents, SIZE, keep.roll(1, 0)))


def test_an_image_all_of_whose_latents_halt_decodes_to_numbers():
    """And to the same ones whatever the latents were."""
    decoder, none = make_decoder(), torch.zeros(2, 6, dtype=torch.bool)
    with torch.no_grad():
        first, second = (decoder(torch.randn(2, 6, 4, dtype=torch.float64), SIZE, none) for _ in range(2))
    assert torch.isfinite(first).all()
    assert torch.equal(first, second)


def test_a_tokenizer_transmits_what_was_kept():
    encoder = make(halt_above=0.0734)  # between the chances of single latents
    tokenizer = Tokenizer(encoder, VQ(dim=4, codebook_size=16).double(), make_decoder(), space=encoder.space).eval()
    tokens = tokenizer.encode(wave_image(), length=5)
    assert tokens.keep.shape == (1, 5)
    assert 0 < tokens.keep.sum() < 5
    assert not tokens.ids[~tokens.keep].any()
    with torch.no_grad():
        image = tokenizer(wave_image(), length=5).image
    assert torch.equal(tokenizer.decode(tokens, SIZE), image.clamp(-1, 1))
