"""The streamed search against brute force."""

import pytest
import torch

from imtok.quantizers import search
from imtok.quantizers.search import most_similar, nearest, nearest_codes


@pytest.mark.parametrize("codes", [1, 63, 64, 65, 100, 128, 2048, 2049, 4096 + 64, 5000])
@pytest.mark.parametrize("tokens", [1, 511, 513])
def test_the_nearest_code_is_found_for_every_number_of_codes_and_tokens(codes, tokens):
    latents, table = torch.randn(tokens, 5, dtype=torch.float64), torch.randn(codes, 5, dtype=torch.float64)
    assert torch.equal(nearest(latents, table), torch.cdist(latents, table).argmin(-1))


def test_blocks_change_nothing(monkeypatch):
    latents, table = torch.randn(300, 5, dtype=torch.float64), torch.randn(1000, 5, dtype=torch.float64)
    whole = nearest(latents, table)
    monkeypatch.setattr(search, "TOKENS", 7)
    monkeypatch.setattr(search, "CODES", 128)
    assert torch.equal(nearest(latents, table), whole)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(threads, monkeypatch):
    monkeypatch.setattr(search, "WORTH_A_THREAD", 1)
    latents, table = torch.randn(3000, 8), torch.randn(1000, 8, requires_grad=True)
    ids = torch.randint(1000, (3, 2000))
    alone = nearest(latents, table), nearest_codes(ids, table, 3)
    torch.set_num_threads(threads)
    try:
        several = nearest(latents, table), nearest_codes(ids, table, 3)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(several[0], alone[0])
    assert torch.equal(several[1], alone[1])


@pytest.mark.parametrize("width", [2, 8, 256])
def test_a_token_has_the_same_code_in_any_company(width):
    latents, table = torch.randn(1500, width), torch.randn(5000, width)
    whole = nearest(latents, table)
    for count in (1, 2, 5, 12, 40, 700):
        assert torch.equal(nearest(latents[-count:], table), whole[-count:])


def test_no_block_is_much_smaller_than_the_others(monkeypatch):
    seen = []
    scores = search._scores
    monkeypatch.setattr(search, "_scores", lambda block, *rest: seen.append(len(block)) or scores(block, *rest))
    nearest(torch.randn(1025, 4), torch.randn(4096, 4))
    assert sum(seen) == 1025
    assert max(seen) <= 256
    assert min(seen) > 200


@pytest.mark.parametrize("codes", [64, 200, 2048, 5000])
def test_the_lowest_index_wins_a_tie(codes):
    table = torch.randn(codes, 4)
    table[codes // 2 :] = table[: codes - codes // 2].clone()
    found = nearest(table[codes // 2 :], table)
    assert torch.equal(found, torch.arange(codes - codes // 2))
    assert not nearest(torch.randn(10, 4), torch.ones(codes, 4)).any()


def test_offsets_count():
    latents, table, offsets = torch.randn(50, 4), torch.randn(500, 4), torch.randn(500) * 3
    assert torch.equal(most_similar(latents, table, offsets), (latents @ table.T + offsets).argmax(-1))


def test_nan_and_infinity_give_an_id_inside_the_table():
    latents = torch.randn(6, 4)
    latents[1], latents[2, 0], latents[3, 1] = torch.nan, torch.inf, -torch.inf
    ids = nearest(latents, torch.randn(128, 4))
    assert ((ids >= 0) & (ids < 128)).all()
    assert ids[1] == 0


def test_no_latents_give_no_ids():
    assert nearest(torch.zeros(0, 4), torch.randn(10, 4)).shape == (0,)


def test_neighbours_are_sorted_by_distance():
    table = torch.randn(300, 4)
    ids = torch.randint(300, (2, 7))
    near = nearest_codes(ids, table, 6)
    assert torch.equal(near, torch.cdist(table[ids], table).topk(6, largest=False).indices)
