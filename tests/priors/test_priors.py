"""What priors see, what they say, and what they draw."""

import math

import pytest
import torch

from imtok.nn.visibility import causal_groups
from imtok.priors.ar import ARPrior
from imtok.priors.base import stop_nats
from imtok.priors.heads import BitsHead, OrderedHead, ParallelHead
from imtok.priors.layout import TokenLayout
from imtok.priors.masked import MaskedPrior, stay_masked
from imtok.priors.prefix import Prefix
from imtok.priors.sampling import Given, Sampling, draws, preserved
from imtok.priors.scales import ScalePrior
from imtok.priors.trunk import Trunk
from imtok.types import Condition, Tokens

RANDOM = {"anneal": (0.5, 0.75)}
CLASSES, TEXT = {"classes": 3}, {"text_dim": 5, "text_length": 4}
PLAIN = TokenLayout((8, 4), tokens=6)
VARIABLE = TokenLayout((8, 4), tokens=6, variable_length=True)
SCALES = TokenLayout((8, 4), tokens=14, scales=(1, 4, 9))
HEADS = [ParallelHead, lambda sizes, width: OrderedHead(sizes, width, 1, 2), BitsHead]


def made(kind, layout=PLAIN, head=ParallelHead, told=None, drop=0.1, **more):
    torch.manual_seed(0)
    trunk = Trunk(width=16, depth=2, heads=2, dropout=0.0)
    prior = kind(layout, head(layout.vocab_sizes, 16), trunk, Prefix(16, **(told or {}), drop=drop), **more).eval()
    for part in prior.parameters():
        torch.nn.init.normal_(part, std=0.3)
    return prior


def ids_of(layout, images=3):
    return torch.stack([torch.randint(size, (images, layout.tokens)) for size in layout.vocab_sizes], -1)


KINDS = [
    pytest.param(ARPrior, PLAIN, {}, id="ar"),
    pytest.param(ARPrior, PLAIN, RANDOM, id="rar"),
    pytest.param(ARPrior, VARIABLE, {}, id="variable"),
    pytest.param(MaskedPrior, PLAIN, {}, id="masked"),
    pytest.param(ScalePrior, SCALES, {}, id="scales"),
]


@pytest.mark.parametrize("head", HEADS, ids=["parallel", "ordered", "bits"])
@pytest.mark.parametrize(("kind", "layout", "more"), KINDS)
def test_a_sample_is_a_function_of_seed_and_index_whatever_the_batch(kind, layout, more, head):
    prior = made(kind, layout, head, CLASSES, **more)
    label = torch.tensor([0, 1, 2, 0, 1])
    settings = Sampling(seed=5, guidance=1.5, steps=3, top_p=1.0)
    whole = prior.sample([0, 1, 2, 3, 4], Condition(label=label), settings)
    parts = [prior.sample([i], Condition(label=label[i : i + 1]), settings) for i in range(5)]
    assert torch.equal(whole.ids, torch.cat([part.ids for part in parts]))
    assert ((whole.ids >= 0) & (whole.ids < torch.tensor(layout.vocab_sizes))).all()
    other = prior.sample([0, 1, 2, 3, 4], Condition(label=label), Sampling(seed=6, guidance=1.5, steps=3))
    assert not torch.equal(whole.ids, other.ids)
    if layout.variable_length:
        prior.check(whole)  # a prefix of each is there


@pytest.mark.parametrize("head", HEADS, ids=["parallel", "ordered", "bits"])
@pytest.mark.parametrize("more", [{}, RANDOM])
def test_what_is_remembered_gives_the_logits_of_the_whole_sequence(head, more):
    prior = made(ARPrior, head=head, told=CLASSES | TEXT, **more)
    mask = torch.tensor([[True] * 4, [True, False, False, False], [False] * 4])
    condition = Condition(text=torch.randn(3, 4, 5), mask=mask, label=torch.tensor([0, -1, 2]))
    settings = Sampling(seed=1)
    drawn = prior.sample([0, 1, 2], condition, settings)
    # the same draws, each token from a pass over the whole sequence
    uniform, ids = draws(1, [0, 1, 2], 6, prior.head.draws + 1), torch.zeros_like(drawn.ids)
    for at in range(6):
        order = None if more == {} else torch.arange(6).expand(3, 6)
        hidden = prior.hidden(ids, condition, order)[:, at : at + 1]
        ids[:, at : at + 1] = prior.head.sample(hidden, None, uniform[:, at, None, :-1], settings)[0]
    assert torch.equal(ids, drawn.ids)


def test_cached_hidden_states_are_those_without_a_cache_to_1e_5():
    from imtok.priors.ar import _Walk

    prior, ids = made(ARPrior, told=CLASSES), ids_of(PLAIN)
    condition = Condition(label=torch.tensor([0, 1, 2]))
    walk = _Walk(prior, condition, 3, False)
    steps = [walk.step(ids[:, at - 1 : at] if at else None, at) for at in range(6)]
    torch.testing.assert_close(torch.cat(steps, 1), prior.hidden(ids, condition, None), atol=1e-5, rtol=0)


def test_cached_scales_are_those_without_a_cache_to_1e_5():
    from imtok.priors.scales import _Walk

    prior, ids = made(ScalePrior, SCALES, told=CLASSES), ids_of(SCALES)
    condition = Condition(label=torch.tensor([0, 1, 2]))
    walk, scales = _Walk(prior, condition, 3, False), ids.split([1, 4, 9], 1)
    steps = [walk.step(scales[scale - 1] if scale else None, scale) for scale in range(3)]
    torch.testing.assert_close(torch.cat(steps, 1), prior.hidden(ids, condition), atol=1e-5, rtol=0)


def seen_by(prior, hidden_of, layout):
    """Which tokens each token's vector depends on, by gradients of what goes in."""
    vectors = {}
    embed = prior.head.embed

    def noted(ids):
        found = embed(ids).detach().requires_grad_()
        vectors.setdefault("all", []).append(found)
        return found

    prior.head.embed = noted
    hidden = hidden_of()
    rows = []
    for at in range(layout.tokens):
        grads = torch.autograd.grad(hidden[0, at].sum(), vectors["all"], retain_graph=True, allow_unused=True)
        found = zip(grads, vectors["all"], strict=True)
        each = [torch.zeros(v.shape[1]) if grad is None else grad[0].abs().sum(-1) for grad, v in found]
        rows.append(torch.cat(each) > 0)
    return torch.stack(rows)


def test_a_token_sees_those_before_it_and_no_other():
    prior, ids = made(ARPrior), ids_of(PLAIN, 1)
    seen = seen_by(prior, lambda: prior.hidden(ids, None, None), PLAIN)
    assert torch.equal(seen, torch.ones(6, 6, dtype=torch.bool).tril(-1))


def test_a_scale_sees_the_scales_before_it_whole_and_nothing_of_its_own():
    prior, ids = made(ScalePrior, SCALES), ids_of(SCALES, 1)
    seen = seen_by(prior, lambda: prior.hidden(ids, None), SCALES)[:, :5]  # the last scale never goes in
    groups = causal_groups([1, 4, 9])
    own = torch.block_diag(*(torch.ones(n, n) for n in (1, 4, 9))).bool()
    assert torch.equal(seen, (groups & ~own)[:, :5])


def test_in_a_random_order_a_token_sees_those_before_it_in_that_order():
    prior, ids = made(ARPrior, **RANDOM), ids_of(PLAIN, 1)
    order = torch.tensor([[3, 0, 5, 1, 4, 2]])
    changed = ids.clone()
    changed[0, 5, 0] = (changed[0, 5, 0] + 1) % 8  # it comes third
    before, after = (prior.hidden(one, None, order) for one in (ids, changed))
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3], after[:, 3])


def test_all_sequences_of_one_length_have_probabilities_that_add_up_to_one():
    layout = TokenLayout((2,), tokens=3)
    every = torch.cartesian_prod(*[torch.arange(2)] * 3)[..., None]
    for kind, more in ((ARPrior, {}), (ARPrior, RANDOM)):
        nats = made(kind, layout, **more).nats(Tokens(every), None)
        assert torch.exp(-nats).sum().item() == pytest.approx(1, abs=1e-5)
    scales = TokenLayout((2,), tokens=5, scales=(1, 4))
    every = torch.cartesian_prod(*[torch.arange(2)] * 5)[..., None]
    nats = made(ScalePrior, scales).nats(Tokens(every), None)
    assert torch.exp(-nats).sum().item() == pytest.approx(1, abs=1e-5)


def test_all_sequences_of_any_length_have_probabilities_that_add_up_to_one():
    prior, total = made(ARPrior, TokenLayout((2,), tokens=3, variable_length=True)), 0.0
    for length in (1, 2, 3):
        some = torch.cartesian_prod(*[torch.arange(2)] * length).view(-1, length)
        ids = torch.cat([some, torch.zeros(len(some), 3 - length, dtype=torch.int64)], 1)[..., None]
        keep = (torch.arange(3) < length).expand(len(some), 3)
        total += torch.exp(-prior.nats(Tokens(ids, keep), None)).sum().item()
    assert total == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("layout", [PLAIN, VARIABLE], ids=["one length", "variable"])
def test_the_loss_of_a_batch_is_the_mean_of_those_of_its_parts(layout):
    prior, ids = made(ARPrior, layout), ids_of(layout, 4)
    keep = torch.arange(6) < torch.tensor([[1], [6], [3], [5]]) if layout.variable_length else None
    whole = prior.losses(Tokens(ids, keep), None, 0.0)
    parts = [
        prior.losses(Tokens(ids[rows], None if keep is None else keep[rows]), None, 0.0)
        for rows in (slice(0, 2), slice(2, 4))
    ]
    assert set(whole) == ({"tokens", "end"} if layout.variable_length else {"tokens"})
    for name, loss in whole.items():
        torch.testing.assert_close(loss, (parts[0][name] + parts[1][name]) / 2)
    if layout.variable_length:
        nats = prior.nats(Tokens(ids, keep), None).mean() / 6
        torch.testing.assert_close(whole["tokens"] + whole["end"], nats)


def test_ends_cost_what_is_open_alone():
    there = torch.tensor([[True, True, False, False], [True, True, True, True]])
    logits = torch.zeros(2, 4)
    nats = stop_nats(logits, there) / math.log(2)
    assert nats.tolist() == [[0, 1, 1, 0], [0, 1, 1, 1]]


def test_masked_decoding_is_that_of_a_plain_reference():
    prior = made(MaskedPrior)
    settings = Sampling(seed=2, steps=4, choice_temperature=3.0)
    found = prior.sample([0, 1], None, settings).ids
    # image by image and token by token, in plain Python
    uniform = draws(2, [0, 1], 4, 6, prior.head.draws + 1)
    for image in range(2):
        ids, masked = torch.zeros(1, 6, 2, dtype=torch.int64), [True] * 6
        for step in range(1, 5):
            hidden = prior.hidden(ids, torch.tensor([masked]), None)
            drawn, likely = prior.head.sample(hidden, None, uniform[image, step - 1, :, :-1][None], settings)
            sure = {}
            for at in range(6):
                if masked[at]:
                    ids[0, at] = drawn[0, at]
                    noise = -math.log(-math.log(uniform[image, step - 1, at, -1].item()))
                    sure[at] = likely[0, at].item() + 3.0 * (1 - step / 4) * noise
            wanted = math.floor(6 * math.cos(math.pi / 2 * step / 4))
            stay = 0 if step == 4 else max(1, min(len(sure) - 1, wanted))
            least = sorted(sure, key=sure.get)[:stay]
            masked = [at in least for at in range(6)]
        assert torch.equal(found[image], ids[0])


def test_masks_shrink_to_nothing():
    masked, counts = torch.ones(1, 16, dtype=torch.bool), []
    for step in range(1, 9):
        masked = stay_masked(masked, torch.rand(1, 16, dtype=torch.float64), step, 8)
        counts.append(int(masked.sum()))
    assert counts == [15, 14, 13, 11, 8, 6, 3, 0]


def test_a_masked_prior_sees_no_masked_token_and_every_other():
    prior, ids = made(MaskedPrior), ids_of(PLAIN, 1)
    masked = torch.tensor([[True, False, True, False, True, False]])
    hidden = prior.hidden(ids, masked, None)
    for at in range(6):
        changed = ids.clone()
        changed[0, at, 0] = (changed[0, at, 0] + 1) % 8
        assert torch.equal(prior.hidden(changed, masked, None), hidden) is masked[0, at].item()


def test_the_bound_of_a_masked_prior_that_knows_nothing_is_exact():
    prior = made(MaskedPrior, passes=5)
    for part in prior.head.logits.parameters():
        torch.nn.init.zeros_(part)
    torch.testing.assert_close(prior.nats(Tokens(ids_of(PLAIN)), None), torch.full((3,), 6 * math.log(32)))


@pytest.mark.parametrize(("kind", "layout", "more"), KINDS)
def test_what_is_told_matters_and_nothing_is_what_a_dropped_image_is_told(kind, layout, more):
    prior = made(kind, layout, told=CLASSES, **more)
    tokens = Tokens(ids_of(layout), torch.ones(3, layout.tokens, dtype=torch.bool) if layout.variable_length else None)
    none, some = (prior.nats(tokens, Condition(label=torch.full((3,), label))) for label in (-1, 1))
    assert not torch.equal(none, some)
    assert torch.equal(none, prior.nats(tokens, None))
    assert prior.gives_guidance


@pytest.mark.parametrize(("kind", "layout", "more"), [one for one in KINDS if one.id != "variable"])
def test_tokens_that_are_given_stay_and_the_others_are_drawn_in_their_sight(kind, layout, more):
    prior, settings = made(kind, layout, **more), Sampling(steps=3)
    torch.nn.init.normal_(prior.head.tables.table.weight, std=10)  # what is seen matters
    ids, numbers = ids_of(layout, 12), list(range(12))
    stays = preserved(0, numbers, layout.tokens, 0.5)
    stays[2] = True
    drawn = prior.sample(numbers, None, settings, Given(ids, stays)).ids
    assert torch.equal(drawn[stays], ids[stays])
    assert not torch.equal(drawn, ids)
    other = (ids + 1) % torch.tensor(layout.vocab_sizes)
    assert not torch.equal(prior.sample(numbers, None, settings, Given(other, stays)).ids[~stays], drawn[~stays])
    free = prior.sample(numbers, None, settings).ids
    assert torch.equal(prior.sample(numbers, None, settings, Given(ids, torch.zeros_like(stays))).ids, free)


@pytest.mark.parametrize(("kind", "layout", "more"), KINDS)
def test_losses_are_the_mean_cost_of_a_token_and_reach_all_weights(kind, layout, more):
    prior = made(kind, layout, told=CLASSES, drop=0.0, **more).train()
    keep = torch.arange(6) < torch.tensor([[2], [6], [4]]) if layout.variable_length else None
    tokens, condition = Tokens(ids_of(layout), keep), Condition(label=torch.tensor([0, 1, 2]))
    losses = prior.losses(tokens, condition, 1.0)
    if prior.exact:
        total = prior.nats(tokens, condition).mean() / layout.tokens
        torch.testing.assert_close(sum(losses.values()), total)
    sum(losses.values()).backward()
    assert all(part.grad is not None for part in prior.parameters())


def test_random_orders_become_raster_order():
    prior, ids = made(ARPrior, **RANDOM), torch.zeros(2000, 6, 2)
    raster = torch.arange(6)
    shares = [(prior._orders(ids, at) == raster).all(1).float().mean().item() for at in (0.0, 0.5, 0.625, 0.75, 1.0)]
    assert shares[0] == pytest.approx(1 / 720, abs=0.005)
    assert shares[1] == pytest.approx(1 / 720, abs=0.005)
    assert shares[2] == pytest.approx(0.5, abs=0.05)
    assert shares[3:] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: made(ARPrior, VARIABLE, **RANDOM), "anneal must be null"),
        (lambda: made(ARPrior, anneal=(0.9, 0.1)), "anneal"),
        (lambda: made(MaskedPrior, VARIABLE), "prior=ar"),
        (lambda: made(MaskedPrior, passes=0), "passes"),
        (lambda: made(ScalePrior), "scales of the tokens"),
        (lambda: made(ARPrior, drop=1.0), "drop must"),
        (lambda: made(ARPrior).sample([0], None, Sampling(guidance=2)), "guidance must be 1"),
        (
            lambda: made(ARPrior, VARIABLE).sample(
                [0], None, Sampling(), Given(ids_of(VARIABLE, 1), torch.ones(1, 6) > 0)
            ),
            "same number",
        ),
        (lambda: made(ARPrior).nats(Tokens(torch.zeros(1, 5, 2).long()), None), "6 tokens and 2 slots"),
        (
            lambda: made(ARPrior, VARIABLE).nats(
                Tokens(ids_of(VARIABLE, 1), torch.tensor([[True, False, True, True, True, True]])), None
            ),
            "last ones",
        ),
        (
            lambda: made(ARPrior, told={"text_dim": 3, "text_length": 2}).nats(Tokens(ids_of(PLAIN)), None),
            "2 rows of text",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()
