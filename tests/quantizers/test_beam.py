"""Beam search over codebooks against the greedy choice and against all sums of codes."""

import itertools

import pytest
import torch

from imtok.quantizers import beam
from imtok.quantizers.beam import free_search, ordered_search
from imtok.quantizers.ema_vq import EMAVQ
from imtok.quantizers.fsq import FSQ
from imtok.quantizers.ibq import IBQ
from imtok.quantizers.residual import Residual
from imtok.quantizers.simvq import SimVQ
from imtok.quantizers.vq import VQ


def vq(**settings):
    quantizer = VQ(**({"dim": 4, "codebook_size": 32, "normalize": False} | settings))
    torch.nn.init.normal_(quantizer.weight, std=0.7)
    return quantizer


def tables(count, codes=6, width=3):
    return [torch.randn(codes, width, dtype=torch.float64) for _ in range(count)]


def summed(ids, books):
    return sum(table[ids[..., slot]] for slot, table in enumerate(books))


def error(latents, ids, books):
    return (latents - summed(ids, books)).square().sum(-1)


@pytest.mark.parametrize("search", [ordered_search, free_search])
def test_a_wide_beam_finds_the_best_of_all_sums(search):
    books, latents = tables(3), torch.randn(200, 3, dtype=torch.float64) * 2
    sums = torch.stack([sum(codes) for codes in itertools.product(*books)])
    found = error(latents, search(latents, books, 6**3), books)
    torch.testing.assert_close(found, torch.cdist(latents, sums).min(-1).values.square())


def test_a_wide_beam_finds_the_least_sum_of_the_errors_of_all_depths():
    books, latents = tables(3), torch.randn(50, 3, dtype=torch.float64) * 2
    every = torch.cartesian_prod(*[torch.arange(6)] * 3)
    paths = sum(error(latents[:, None], every[None, :, :depth], books[:depth]) for depth in (1, 2, 3))
    assert torch.equal(ordered_search(latents, books, 6**3, "sum"), every[paths.argmin(-1)])


@pytest.mark.parametrize("search", [ordered_search, free_search])
def test_the_mean_error_does_not_grow_with_the_beam(search):
    books, latents = tables(6, codes=32, width=8), torch.randn(2000, 8, dtype=torch.float64) * 2
    errors = [error(latents, search(latents, books, width), books).mean() for width in (1, 2, 4, 8)]
    assert all(wider < narrower for narrower, wider in itertools.pairwise(errors))


def test_blocks_change_nothing(monkeypatch):
    books, latents = tables(3), torch.randn(100, 3, dtype=torch.float64)
    whole = [search(latents, books, 3) for search in (ordered_search, free_search)]
    monkeypatch.setattr(beam, "SCORES", 100)
    for search, before in zip((ordered_search, free_search), whole, strict=True):
        assert torch.equal(search(latents, books, 3), before)


def test_a_free_search_chooses_one_code_of_each_table_and_no_worse_than_in_order():
    books, latents = tables(4, codes=2), torch.randn(500, 3, dtype=torch.float64)
    ids = free_search(latents, books, 8)
    assert ((ids >= 0) & (ids < 2)).all()
    ordered = error(latents, ordered_search(latents, books, 8), books)
    assert error(latents, ids, books).mean() <= ordered.mean()


def test_sums_of_the_same_codes_are_kept_once():
    """With doubles, both of two sums would be the same pair in either order, and the best third is missed."""
    books = [torch.tensor([[1.0], [9.0]]), torch.tensor([[1.0], [9.0]]), torch.tensor([[-2.0], [9.0]])]
    beams = beam.Beam.empty(torch.zeros(1, 1), 3).grown(torch.zeros(1, 1), 0, books[0], 1)
    doubled = beam.Beam(*(torch.cat([value, value], 1) for value in vars(beams).values()))
    assert doubled.without_doubles().errors.tolist() == [[1.0, torch.inf]]


def test_a_beam_of_one_is_the_quantizer_without_a_beam_bit_for_bit():
    stages, latents = [vq() for _ in range(4)], torch.randn(2, 50, 4)
    plain, one = Residual(stages)(latents), Residual(stages, beam=1)(latents)
    assert torch.equal(plain.ids, one.ids)
    assert torch.equal(plain.latents, one.latents)
    assert torch.equal(Residual(stages, beam=3, training_beam=1)(latents).ids, plain.ids)
    found = ordered_search(latents.flatten(0, 1), [stage.weight for stage in stages], 1)
    assert torch.equal(found, plain.ids.flatten(0, 1))


@pytest.mark.parametrize(
    "stages", [[vq()], [vq(), vq(), vq()], [EMAVQ(4, 32)], [SimVQ(4, 32)]], ids=["shared", "apart", "ema", "simvq"]
)
def test_a_beam_lowers_the_error_of_residual_tables(stages):
    latents = torch.randn(4, 100, 4)
    greedy, wide = (Residual(stages, depth=3, beam=width).eval() for width in (1, 8))
    before, after = (((q(latents).latents - latents) ** 2).mean() for q in (greedy, wide))
    assert after < before
    assert torch.equal(wide.decode(wide(latents).ids), wide(latents).latents)


def test_losses_and_statistics_are_those_of_the_codes_that_the_beam_chose():
    quantizer, latents = Residual([vq(restart_below=0.1)], depth=3, beam=4), torch.randn(2, 30, 4)
    quantized = quantizer(latents)
    partial = [quantizer.decode(quantized.ids, slots=depth) for depth in (1, 2, 3)]
    commit = sum((latents - total).square().mean() for total in partial) / 3
    torch.testing.assert_close(quantized.losses["commit"].value, commit)
    assert torch.equal(quantized.stats["0.counts"], torch.bincount(quantized.ids.flatten(), minlength=32).float())


def test_latents_that_are_not_kept_take_no_part():
    quantizer, latents, keep = Residual([vq()], depth=3, beam=4), torch.randn(2, 30, 4), torch.rand(2, 30) < 0.5
    alone = quantizer(latents[keep][None])
    masked = quantizer(latents, keep)
    assert torch.equal(masked.ids[keep], alone.ids[0])
    assert not masked.ids[~keep].any()


@pytest.mark.parametrize("stage", [FSQ([5, 5]), IBQ(2, 16)])
def test_a_beam_over_other_stages_is_refused(stage):
    with pytest.raises(ValueError, match=f"nearest code of one table .* got {type(stage).__name__}; choose .* beam=1"):
        Residual([stage], depth=2, beam=2)


def test_an_estimator_that_draws_codes_is_refused():
    with pytest.raises(ValueError, match=r"the estimator of VQ draws its own; choose another estimator or"):
        Residual([vq(estimator="gumbel_softmax")], depth=2, beam=2)


@pytest.mark.parametrize("wrong", [{"beam": 0}, {"training_beam": 0}, {"beam_score": "best"}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="beams must be at least 1 and beam_score last or sum"):
        Residual([vq()], depth=2, **wrong)
