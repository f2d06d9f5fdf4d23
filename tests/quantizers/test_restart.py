"""Dead codes become tokens of the batch: soon, the same ones however it is cut, and never the same ones again."""

import itertools

import pytest
import torch
from quantizers.contract import together

from imtok.quantizers.ema_vq import EMAVQ
from imtok.quantizers.restart import drawn_tokens
from imtok.quantizers.vq import VQ

LEARNERS = {
    "unit": lambda **settings: VQ(usage_decay=settings.pop("decay"), normalize=True, **settings),
    "plain": lambda **settings: VQ(usage_decay=settings.pop("decay"), normalize=False, **settings),
    "ema": lambda **settings: EMAVQ(**settings),
    "ema_unit": lambda **settings: EMAVQ(normalize=True, **settings),
}
DIM, CODES, TOKENS, DECAY = 8, 256, 1024, 0.8
ONE_TOKEN = CODES / TOKENS  # as a share of an even share


def steps_to_full_use(step, latents, most=40):
    """The first step in which every code is in use; ``step`` gives the ids and learns."""
    return next((number for number in range(1, most) if step(latents).unique().numel() == CODES), most)


def ours(quantizer):
    def step(latents):
        quantized = quantizer(latents)
        quantizer.update(quantized.stats)
        return quantized.ids

    return step


def theirs(unit):
    """vector-quantize-pytorch 1.31 as it is set up for this: averages from 1 on, a code below one token dies."""
    place = (lambda vectors: torch.nn.functional.normalize(vectors, dim=-1)) if unit else (lambda vectors: vectors)
    state = {"counts": torch.ones(CODES)}
    state["codes"] = state["sums"] = place(torch.nn.init.kaiming_uniform_(torch.empty(1, CODES, DIM))[0])

    def step(latents):
        points = place(latents[0])
        ids = torch.cdist(points, state["codes"]).argmin(-1)
        chosen = torch.nn.functional.one_hot(ids, CODES).float()
        counts, sums = state["counts"].lerp(chosen.sum(0), 1 - DECAY), state["sums"].lerp(chosen.T @ points, 1 - DECAY)
        dead = counts < 1
        tokens = points[torch.randperm(TOKENS)[:CODES]]
        state["counts"], state["sums"] = counts.masked_fill(dead, 1), torch.where(dead[:, None], tokens, sums)
        state["codes"] = place(state["sums"] / state["counts"][:, None])
        return ids

    return step


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", LEARNERS)
def test_all_codes_are_soon_in_use(name, seed):
    """At equal decay and threshold, without a gradient: vector-quantize-pytorch takes 2 (cosine) or 4 to 13."""
    torch.manual_seed(seed)
    latents = torch.randn(1, TOKENS, DIM)
    quantizer = LEARNERS[name](dim=DIM, codebook_size=CODES, restart_below=ONE_TOKEN, decay=DECAY)
    steps = steps_to_full_use(ours(quantizer), latents)
    assert steps <= 6
    assert steps <= steps_to_full_use(theirs("unit" in name), latents) + 2


@pytest.mark.parametrize("name", LEARNERS)
def test_a_slow_average_does_not_put_off_the_first_restart(name):
    """The first step counts: at decay 0.99 a share that began at an even one took 138 steps to fall to a quarter."""
    quantizer = LEARNERS[name](dim=DIM, codebook_size=CODES, restart_below=ONE_TOKEN, decay=0.99)
    assert steps_to_full_use(ours(quantizer), torch.randn(1, TOKENS, DIM)) <= 8


@pytest.mark.parametrize("name", LEARNERS)
def test_a_dead_code_becomes_a_token_of_the_batch(name):
    quantizer = LEARNERS[name](dim=DIM, codebook_size=32, restart_below=0.5, decay=0.5)
    latents = torch.randn(1, 512, DIM) + 3
    before = quantizer.table().detach().clone()
    quantized = quantizer(latents)
    unused = quantized.stats["counts"] == 0
    quantizer.update(quantized.stats)
    after = quantizer.table().detach()
    assert unused.sum() > 8
    points = torch.nn.functional.normalize(latents, dim=-1) if "unit" in name else latents
    distances = torch.cdist(after[unused].double(), points[0].double())
    assert (distances.min(1).values < 1e-5).all()
    assert distances.argmin(1).unique().numel() == unused.sum()  # each another one
    assert not torch.isclose(before[unused], after[unused]).all(-1).any()


def test_the_draw_is_that_of_the_whole_batch_however_it_is_cut_or_summed():
    latents, codes, seed = torch.randn(6, 100, 4, dtype=torch.float64), torch.zeros(6, 100, 4).double(), torch.tensor(3)
    whole = drawn_tokens(latents, codes, None, 64, seed)
    for sizes in ([1, 5], [3, 3], [2, 2, 2]):
        pairs = zip(latents.split(sizes), codes.split(sizes), strict=True)
        cut = together([drawn_tokens(one, code, None, 64, seed) for one, code in pairs])
        assert torch.equal(cut["drawn"], whole["drawn"])
    shuffled = drawn_tokens(latents.flip(0, 1), codes, None, 64, seed)
    assert torch.equal(shuffled["drawn"], whole["drawn"])
    rounded = drawn_tokens(latents + 1e-15 * torch.randn_like(latents), codes, None, 64, seed)
    torch.testing.assert_close(rounded["drawn"][:, 2:], whole["drawn"][:, 2:], rtol=0, atol=1e-13)


def test_every_token_is_as_likely_as_any_other():
    latents = torch.arange(1.0, 65.0).view(1, 64, 1)
    drawn = [drawn_tokens(latents, latents * 0, None, 16, torch.tensor(seed))["drawn"] for seed in range(400)]
    seen = torch.cat([rows[rows[:, 0] >= 0, 2] for rows in drawn]).long()
    counts = torch.bincount(seen, minlength=65)[1:].double()
    expected = counts.mean()
    assert ((counts - expected).abs() < 5 * expected.sqrt()).all()


def test_tokens_that_are_left_out_or_are_codes_already_are_not_drawn():
    latents = torch.randn(1, 40, 4)
    codes, keep = torch.zeros(1, 40, 4), torch.arange(40)[None] < 20
    codes[:, :10] = latents[:, :10]
    rows = drawn_tokens(latents, codes, keep, 64, torch.tensor(0))["drawn"]
    tokens = rows[rows[:, 0] >= 0, 2:]
    assert len(tokens)
    assert all((latents[0, 10:20] == token).all(-1).any() for token in tokens)


def test_no_more_codes_are_drawn_than_there_are_tokens():
    quantizer = VQ(dim=4, codebook_size=4096, restart_below=0.9, usage_decay=0.0, normalize=False)
    before = quantizer.weight.detach().clone()
    quantizer.update(quantizer(torch.randn(1, 16, 4)).stats)
    changed = (quantizer.weight != before).any(-1)
    assert 1 < changed.sum() <= 16
    assert quantizer.weight[changed].unique(dim=0).shape[0] == changed.sum()


@pytest.mark.parametrize("name", LEARNERS)
def test_each_restart_is_another_draw_from_the_same_tokens(name):
    """Codes that die time and again must not be tried in the same place each time."""
    quantizer, latents = LEARNERS[name](dim=4, codebook_size=16, restart_below=0.5, decay=0.0), torch.randn(1, 64, 4)
    draws = []
    for _ in range(3):
        stats = quantizer(latents).stats
        draws.append(stats["drawn"][:, 2:])
        quantizer.update(stats)
    for one, other in itertools.pairwise(draws):
        assert not torch.equal(one, other)


def test_a_code_that_few_tokens_need_is_left_alone():
    """A quarter of an even share, well above a tenth: it is not drawn anew although most steps bring it no token."""
    quantizer = VQ(dim=2, codebook_size=4, restart_below=0.1, usage_decay=0.95, normalize=False)
    corners = torch.tensor([[5.0, 0], [-5, 0], [0, 5], [0, -5]])
    with torch.no_grad():
        quantizer.weight.copy_(corners)
    for step in range(200):
        rare = step % 2 == 0
        latents = torch.cat([corners[:3].repeat(5, 1), corners[3:] if rare else corners[:1]])[None] + 0.1
        quantizer.update(quantizer(latents).stats)
    assert torch.equal(quantizer.weight, corners)


def test_a_state_that_was_written_before_shares_were_kept_goes_on():
    quantizer = EMAVQ(dim=4, codebook_size=8, restart_below=0.5)
    quantizer.update(quantizer(torch.randn(1, 64, 4)).stats)
    old = {name: value for name, value in quantizer.state_dict().items() if name != "usage"}
    twin = EMAVQ(dim=4, codebook_size=8, restart_below=0.5)
    twin.load_state_dict(old)
    torch.testing.assert_close(twin.usage, old["counts"] / old["counts"].sum())
