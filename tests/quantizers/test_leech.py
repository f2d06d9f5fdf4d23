"""The Leech lattice's shortest vectors as a codebook: that they are these, and that the nearest one is found."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from encoders.presets import unchecked

from imtok.quantizers.leech import Leech
from imtok.quantizers.leech_search import LeechSearch, golay_code, minimal_vectors, octads
from imtok.quantizers.search import most_similar
from imtok.quantizers.table import ESTIMATORS

PAIRS, OCTADS = 1104, 97_152


@pytest.fixture(scope="module")
def vectors():
    return torch.tensor(minimal_vectors(), dtype=torch.float32)


def test_the_words_are_the_extended_golay_code():
    words = golay_code()
    weights, counts = np.unique(words.sum(1), return_counts=True)
    assert dict(zip(weights.tolist(), counts.tolist(), strict=True)) == {0: 1, 8: 759, 12: 2576, 16: 759, 24: 1}
    sums = (words[1:, None] ^ words[2 ** np.arange(12)]).reshape(-1, 24)  # any word and a basis of them
    digits = 2 ** np.arange(24)[::-1]
    assert np.isin(sums @ digits, words @ digits).all()
    assert (np.diff(words @ digits) > 0).all()
    assert ((words[:, :12] @ 2 ** np.arange(12)[::-1]) == np.arange(4096)).all()


def test_any_five_coordinates_lie_in_exactly_one_octad():
    """The Steiner system S(5, 8, 24)."""
    fives = np.stack([np.sort(np.random.default_rng(seed).permutation(24)[:5]) for seed in range(200)])
    inside = np.zeros((759, 24), np.int64)
    np.put_along_axis(inside, octads(), 1, 1)
    assert (inside[:, fives].sum(-1) == 5).sum(0).tolist() == [1] * 200


def test_there_are_196560_different_codes_of_length_1():
    table = Leech().double().table()
    assert table.shape == (196_560, 24)
    assert len(np.unique(minimal_vectors(), axis=0)) == 196_560
    torch.testing.assert_close(table.norm(dim=1), torch.ones(196_560, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_codes_are_vectors_of_the_lattice():
    """All coordinates even or all odd, sums of 0 or 4 mod 8, and equal remainders mod 4 at the ones of a word."""
    whole = minimal_vectors().astype(np.int64)
    odd = whole[:, :1] & 1
    assert ((whole & 1) == odd).all()
    assert (whole.sum(1) % 8 == 4 * odd[:, 0]).all()
    digits = 2 ** np.arange(24)[::-1]
    places = (whole - odd) // 2 & 1
    assert np.isin(places @ digits, golay_code() @ digits).all()
    assert (np.square(whole).sum(1) == 32).all()


def test_the_greatest_cosine_of_two_codes_is_exactly_one_half(vectors):
    for shape in (slice(0, PAIRS), slice(PAIRS, PAIRS + OCTADS), slice(PAIRS + OCTADS, None)):
        some = vectors[shape][torch.randint(len(vectors[shape]), (16,))]
        products = (some @ vectors.T).sort(descending=True).values
        assert (products[:, 0] == 32).all()
        assert (products[:, 1:4601] == 16).all()  # the 4,600 nearest of each
        assert (products[:, 4601] == 8).all()


def test_the_order_of_ids_is_written_down(vectors):
    code = Leech().vectors
    assert torch.equal(code, vectors)
    first = F.pad(torch.tensor([[4.0, 4.0], [4.0, -4.0], [-4.0, 4.0], [-4.0, -4.0]]), (0, 22))
    assert torch.equal(code[:4], first)
    assert code[PAIRS - 4].nonzero().flatten().tolist() == [22, 23]
    assert code[PAIRS].nonzero().flatten().tolist() == octads()[0].tolist()
    assert code[PAIRS + 1][octads()[0]].tolist() == [2.0] * 6 + [-2.0] * 2
    assert code[PAIRS + 64][octads()[0]].tolist() == [-2.0] + [2.0] * 6 + [-2.0]
    assert code[PAIRS + 128].nonzero().flatten().tolist() == octads()[1].tolist()
    assert torch.equal(code[PAIRS + OCTADS :][:24], 1 - 4 * torch.eye(24))
    assert torch.equal(code[-24:], 4 * torch.eye(24) - 1)  # the last word is all ones


def test_ten_thousand_latents_find_the_code_of_the_greatest_cosine(vectors):
    latents = F.normalize(torch.randn(10_000, 24), dim=1)
    found, expected = LeechSearch()(latents), most_similar(latents, vectors, torch.zeros(len(vectors)))
    for shape in (expected < PAIRS, expected >= PAIRS + OCTADS):
        assert shape.sum() > 10
    differ = (found != expected).nonzero().flatten()
    cosines = [(latents[differ].double() * vectors[ids[differ]]).sum(1) for ids in (found, expected)]
    torch.testing.assert_close(*cosines, rtol=1e-6, atol=0)
    assert len(differ) < 5  # those that rounding cannot tell apart


def test_of_equal_cosines_the_lowest_id_is_taken(vectors):
    """Whole numbers are multiplied exactly, and most of these latents have several nearest codes."""
    latents = torch.randint(-2, 3, (200, 24)).float()
    latents[0], latents[1:100] = 0, latents[1:100].sign()
    products, found = latents @ vectors.T, LeechSearch()(latents)
    nearest = products == products.amax(1, keepdim=True)
    assert (nearest.sum(1) > 1).float().mean() > 0.5
    assert torch.equal(found, nearest.byte().argmax(1))
    assert found[0] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_code_finds_itself(vectors, dtype):
    ids = torch.cat([torch.arange(PAIRS), torch.randint(PAIRS, 196_560, (20_000,))])
    assert torch.equal(LeechSearch()(vectors[ids].to(dtype) * 0.37), ids)


def test_a_call_does_not_depend_on_the_number_of_latents():
    latents, search = torch.randn(600, 24, dtype=torch.float64), LeechSearch()
    assert search(latents[:0]).shape == (0,)
    assert torch.equal(torch.cat([search(latents[:1]), search(latents[1:])]), search(latents))


def test_the_commitment_is_the_squared_distance_on_the_sphere():
    latents = torch.randn(2, 9, 24, requires_grad=True)
    quantized = Leech(commit_weight=0.25)(latents)
    assert quantized.losses["commit"].weight == 0.25
    expected = (2 - 2 * F.cosine_similarity(latents, quantized.latents, dim=-1)).mean() / 24
    torch.testing.assert_close(quantized.losses["commit"].value, expected)
    assert Leech()(latents).losses["commit"].weight == 0


def test_the_estimator_is_the_one_that_is_asked_for():
    latents = torch.randn(2, 9, 24, requires_grad=True)
    weights = torch.randn(2, 9, 24)
    gradients = []
    for name in ("straight_through", "rotation"):
        quantized = Leech(estimator=name)(latents)
        gradients.append(torch.autograd.grad((quantized.latents * weights).sum(), latents)[0])
    plain = torch.autograd.grad((F.normalize(latents, dim=-1) * weights).sum(), latents)[0]
    torch.testing.assert_close(gradients[0], plain)
    assert not torch.allclose(*gradients)


def test_no_file_holds_the_codes():
    assert not Leech().state_dict()
    assert not list(Leech().parameters())


def test_bad_settings_are_refused():
    with unchecked(), pytest.raises(ValueError, match=r"loss weights must not be negative, got -1\.0"):
        Leech(commit_weight=-1.0)
    with pytest.raises(ValueError, match="estimator must be one of"):
        Leech(estimator="exact")


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
def test_every_estimator_gives_the_codes_in_evaluation_and_a_gradient_in_training(estimator):
    quantizer, latents = Leech(estimator=estimator), torch.randn(1, 3, 24, requires_grad=True)
    quantizer(latents).latents.square().mean().backward()
    assert latents.grad is not None
    assert latents.grad.isfinite().all()
    quantized = quantizer.eval()(latents)
    assert torch.equal(quantized.latents, Leech()(latents).latents)
    assert torch.equal(quantizer.decode(quantized.ids), quantized.latents)
