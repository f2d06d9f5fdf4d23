"""An image gets the number of latents that a policy chooses, and these are the first of all."""

import pytest
import torch

from imtok.construct import construct
from imtok.encoders.adatok import AdaTokEncoder
from imtok.encoders.linear import LinearEncoder
from imtok.nn.budgets import BudgetPolicy
from imtok.tokenizer import Tokenizer
from imtok.types import Condition, Latents

IMAGE = (torch.rand(5, 3, 16, 16) * 2 - 1) * torch.linspace(0.01, 1, 5)[:, None, None, None]
NET = {"_target_": "imtok.encoders.linear.LinearEncoder", "latents": 8}
SECTION = {"_target_": "imtok.encoders.adatok.AdaTokEncoder", "net": NET, "budgets": [1, 3, 8]}


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    encoder = construct(SECTION, provided={"out_dim": 4, "image_size": 16})
    wake(encoder.policy)
    return encoder.eval()


def wake(policy):
    """Let the policy tell images apart."""
    with torch.no_grad():
        policy.scores.weight.normal_(std=2.0)
        policy.scores.bias.sub_(policy(IMAGE).mean(0))


def test_the_budget_with_the_highest_score_is_kept(encoder):
    latents = encoder(IMAGE)
    chosen = torch.tensor([1, 3, 8])[encoder.policy(IMAGE).argmax(-1)]
    assert torch.equal(latents.keep.sum(1), chosen)
    assert len(set(chosen.tolist())) > 1
    assert torch.equal(latents.keep.int().sort(descending=True).values, latents.keep.int())  # the first ones
    assert torch.equal(latents.values, encoder.net(IMAGE).values)


def test_with_a_length_the_policy_has_no_say(encoder):
    latents = encoder(IMAGE, 2)
    assert latents.keep is None
    assert torch.equal(latents.values, encoder.net(IMAGE).values[:, :2])


def test_the_net_is_told_the_condition(encoder):
    """Which it looks at, the builder asks the whole encoder."""

    class Told(LinearEncoder):
        takes = needs = ("quality",)

        def forward(self, image, length=None, condition=None):
            return Latents(super().forward(image).values + condition.quality[:, None, None])

    told = AdaTokEncoder(Told(4, 16, 8), [1, 8])
    assert told.takes == told.needs == ("quality",)
    quality = torch.arange(5.0)
    plain, other = (told(IMAGE, 8, Condition(quality=one)).values for one in (0 * quality, quality))
    torch.testing.assert_close(other - plain, quality[:, None, None].expand_as(plain), rtol=0, atol=1e-5)


def test_the_policy_reads_means_and_energies_of_filters_and_cares_for_none_at_first():
    policy = BudgetPolicy(3, width=4, halvings=2)
    assert not policy(IMAGE).any()
    wake(policy)
    one, other = policy.convolutions[0], policy.convolutions[2]
    assert (one.out_channels, other.out_channels) == (4, 8)
    maps = other(torch.nn.functional.silu(one(IMAGE)))
    read = torch.cat([maps.mean((2, 3)), (maps.square().mean((2, 3)) + 1e-4).log()], 1)
    torch.testing.assert_close(policy(IMAGE), policy.scores(policy.hidden(read)))


def test_exported_tokens_decode_to_what_is_reconstructed():
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_config(
        {
            "encoder": SECTION,
            "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [5, 5, 5]},
            "decoder": {"_target_": "imtok.decoders.linear.LinearDecoder", "width": 16},
            "image_size": 16,
        }
    ).eval()
    wake(tokenizer.encoder.policy)
    tokens = tokenizer.encode(IMAGE)
    assert tokens.keep is not None
    assert not tokens.ids[~tokens.keep].any()
    assert torch.equal(tokenizer.decode(tokens), tokenizer(IMAGE).image.clamp(-1, 1))
    assert tokenizer.encode(IMAGE, 5).ids.shape[1] == 5


@pytest.mark.parametrize("budgets", [[], [0, 2], [2, 1], [2, 2]])
def test_budgets_ascend_from_one(budgets):
    with pytest.raises(ValueError, match="budgets must be different numbers of at least 1 in ascending order"):
        AdaTokEncoder(LinearEncoder(4, 16, 8), budgets)


def test_nets_that_do_not_suit_are_refused():
    with pytest.raises(ValueError, match="budgets must be at most the 8 latents of an image, got 9"):
        AdaTokEncoder(LinearEncoder(4, 16, 8), [1, 9]).num_latents((16, 16))

    class Own(LinearEncoder):
        def forward(self, image, length=None, condition=None):
            return Latents(super().forward(image).values, torch.ones(len(image), 8, dtype=torch.bool))

    with pytest.raises(ValueError, match="net must leave the number of latents to the policy, got a Own"):
        AdaTokEncoder(Own(4, 16, 8), [1])(IMAGE)
