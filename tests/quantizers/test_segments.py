"""What only segments promise."""

import pytest
import torch

from imtok.quantizers.fsq import FSQ
from imtok.quantizers.product import Product
from imtok.quantizers.segments import Segments
from imtok.quantizers.vq import VQ


@pytest.fixture
def parts():
    return [VQ(dim=6, codebook_size=32, restart_below=0.1), VQ(dim=4, codebook_size=64, restart_below=0.1)]


def test_each_piece_is_quantized_by_its_own_quantizer(parts):
    quantizer, latents = Segments(parts, [5, 7]), torch.randn(2, 12, 6)
    quantized = quantizer(latents)
    first, second = parts[0](latents[:, :5]), parts[1](latents[:, 5:, :4])
    assert torch.equal(quantized.ids, torch.cat([first.ids, second.ids + 32], 1))
    assert torch.equal(quantized.latents[:, :5], first.latents)
    assert torch.equal(quantized.latents[:, 5:, :4], second.latents)
    assert not quantized.latents[:, 5:, 4:].any()
    assert {name for name, loss in quantized.losses.items() if loss.weight} == {"codebook", "commit"}
    for name in ("codebook", "commit"):
        value, weight = quantized.losses[name]
        expected = sum(one.losses[name].value * one.losses[name].weight for one in (first, second))
        torch.testing.assert_close(value * weight, expected)
        for piece, one in enumerate((first, second)):
            assert quantized.losses[f"{name}_{piece}"] == (one.losses[name].value, 0)


def test_an_id_says_which_piece_it_belongs_to(parts):
    quantizer = Segments(parts, [5, 7])
    assert quantizer.vocab_sizes == (96,)
    table = quantizer.codebook()[0]
    torch.testing.assert_close(table[:32], parts[0].codebook()[0])
    torch.testing.assert_close(table[32:, :4], parts[1].codebook()[0])
    assert not table[32:, 4:].any()
    near = quantizer.neighbours(quantizer(torch.randn(2, 12, 6)).ids, 32)
    assert (near[:, :5] < 32).all()
    assert (near[:, 5:] >= 32).all()
    with pytest.raises(ValueError, match="neighbours must be between 1 and the vocabulary 32"):
        quantizer.neighbours(torch.zeros(1, 12, 1, dtype=torch.long), 33)


def test_every_id_of_a_piece_decodes_to_the_code_that_has_it(parts):
    quantizer = Segments(parts, [32, 64])
    ids = torch.arange(96)[None, :, None]
    assert torch.equal(quantizer(quantizer.decode(ids)).ids, ids)


def test_bits_are_those_of_the_pieces_weighed_by_length(parts):
    assert Segments(parts, [5, 7]).bits_per_token == pytest.approx((5 * 5 + 7 * 6) / 12)


def test_dropped_latents_count_for_nothing_and_decode_to_anything_but_an_error(parts):
    quantizer, latents = Segments(parts, [5, 7]), torch.randn(2, 12, 6)
    keep = torch.rand(2, 12) < 0.6
    quantized = quantizer(latents.masked_fill(~keep[..., None], float("nan")), keep)
    whole = quantizer(latents)
    assert torch.equal(quantized.ids[keep], whole.ids[keep])
    assert not quantized.ids[~keep].any()
    decoded = quantizer.decode(quantized.ids)
    assert torch.equal(decoded[keep], quantized.latents[keep])
    counted = quantized.stats["0.counts"].sum() + quantized.stats["1.counts"].sum()
    assert counted == keep.sum()


def test_statistics_and_start_reach_their_own_piece():
    parts = [VQ(dim=2, codebook_size=16, normalize=False, kmeans_start=True) for _ in range(2)]
    quantizer = Segments(parts, [10, 10])
    latents = torch.randn(20, 20, 2) * 0.1 + torch.tensor([5.0, -5.0]).repeat_interleave(10)[:, None]
    quantizer.start(latents.flatten(0, 1))
    assert (parts[0].weight > 4).all()
    assert (parts[1].weight < -4).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"parts": []}, "same number of slots"),
        ({"lengths": [5]}, r"lengths must be 2 whole numbers >= 1, one per part, got \[5\]"),
        ({"lengths": [5, 0]}, r"got \[5, 0\]"),
        ({"loss_weight": -1.0}, "loss_weight must not be negative, got -1.0"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Segments(**({"parts": [FSQ([5]), FSQ([5])], "lengths": [5, 7]} | wrong))


def test_a_sequence_of_another_length_is_refused(parts):
    with pytest.raises(ValueError, match="latents must be 12, the sum of lengths, got 11"):
        Segments(parts, [5, 7])(torch.randn(1, 11, 6))


def test_an_id_of_another_piece_is_refused():
    quantizer = Segments([VQ(dim=4, codebook_size=8), VQ(dim=4, codebook_size=16)], lengths=[2, 3])
    ids = quantizer(torch.randn(1, 5, 4)).ids
    for place, wrong, message in (
        (0, 8, r"slot 0 in piece 0 must lie in \[0, 8\), got \d to 8"),
        (4, 7, r"slot 0 in piece 1 must lie in \[8, 24\), got 7 to \d+"),
    ):
        spoilt = ids.clone()
        spoilt[0, place] = wrong
        with pytest.raises(ValueError, match=message):
            quantizer.decode(spoilt)


def test_ids_of_another_number_of_tokens_are_refused():
    quantizer = Segments([FSQ([4, 4]), FSQ([4, 4])], lengths=[2, 3])
    with pytest.raises(ValueError, match="ids must be those of all 5 tokens, got 4"):
        quantizer.decode(torch.zeros(1, 4, 1, dtype=torch.long))


def test_a_quantizer_of_ones_own_refuses_ids_too():
    class Own(FSQ):
        def decode(self, ids, slots=None):
            return super().decode(ids, slots) + 0

    class Beside:
        def decode(self, ids, slots=None):
            return ids + torch.zeros(2)

    class Mixed(Beside, FSQ):
        pass

    for quantizer in (Own([4, 4]), Mixed([4, 4])):
        with pytest.raises(ValueError, match=r"ids of slot 0 must lie in \[0, 16\), got 16 to 16"):
            quantizer.decode(torch.full((1, 1, 1), 16))
    ids = torch.full((1, 1, 1), 15)
    assert torch.equal(quantizer.look_up(ids), quantizer.decode(ids))


def test_an_id_of_another_piece_is_refused_inside_a_product_too():
    pieces = Segments([VQ(dim=4, codebook_size=8), VQ(dim=4, codebook_size=16)], lengths=[2, 3])
    quantizer = Product([FSQ([4, 4]), pieces])
    ids = quantizer(torch.randn(1, 5, 6)).ids
    ids[0, 4, 1] = 7
    with pytest.raises(ValueError, match=r"slot 0 in piece 1 must lie in \[8, 24\), got 7"):
        quantizer.decode(ids)
    quantizer.decode(ids, slots=1)  # that slot is not looked at
