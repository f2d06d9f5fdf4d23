"""Models that count."""

import math
from itertools import pairwise

import pytest
import torch

from imtok.priors.ngrams import ngram_bits
from imtok.types import Tokens


def tokens(rows, keep=None):
    return Tokens(torch.tensor(rows), None if keep is None else torch.tensor(keep))


def test_the_three_models_are_those_of_a_few_lines_of_python():
    torch.manual_seed(0)
    train, held_out = torch.randint(3, (20, 7)), torch.randint(3, (9, 7))
    counts = [1 + (train == v).sum().item() for v in range(3)]
    unigram = [count / sum(counts) for count in counts]
    pairs = {}
    for row in train.tolist():
        for a, b in pairwise(row):
            pairs[a, b] = pairs.get((a, b), 0) + 1
    before = [sum(n for (a, _), n in pairs.items() if a == v) for v in range(3)]

    def cost(strength):
        total = 0.0
        for row in held_out.tolist():
            total -= math.log2(unigram[row[0]])
            for a, b in pairwise(row):
                total -= math.log2((pairs.get((a, b), 0) + strength * unigram[b]) / (before[a] + strength))
        return total / held_out.numel()

    found = ngram_bits([Tokens(train[..., None])], [Tokens(held_out[:4, :, None]), Tokens(held_out[4:, :, None])], [3])
    assert found["uniform"] == pytest.approx(math.log2(3))
    assert found["unigram"] == pytest.approx(-sum(math.log2(unigram[v]) for v in held_out.flatten().tolist()) / 63)
    assert found["bigram"] == pytest.approx(min(cost(2.0**power) for power in range(-4, 13)))


def test_slots_are_summed_each_by_itself():
    torch.manual_seed(0)
    first, second = torch.randint(4, (10, 5, 1)), torch.randint(6, (10, 5, 1))
    both = Tokens(torch.cat([first, second], -1))
    alone = [ngram_bits([Tokens(ids)], [Tokens(ids)], [size]) for ids, size in ((first, 4), (second, 6))]
    together = ngram_bits([both], [both], [4, 6])
    assert together == pytest.approx({name: alone[0][name] + alone[1][name] for name in together})


def test_tokens_that_are_left_out_do_not_count():
    ids = torch.randint(4, (6, 5, 1))
    keep = (torch.arange(5) < 3).expand(6, 5)
    other = ids.clone()
    other[:, 3:] = 0
    found = [ngram_bits([Tokens(one, keep)], [Tokens(one, keep)], [4]) for one in (ids, other)]
    assert found[0] == found[1] == ngram_bits([Tokens(ids[:, :3])], [Tokens(ids[:, :3])], [4])
