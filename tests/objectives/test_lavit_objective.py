"""Features are rebuilt, the wanted share of patches is drawn to, and the selector learns from both."""

import pytest
import torch
from torch.nn import functional as F

from imtok.losses.pixel import L2Loss
from imtok.objectives.lavit import LaVITObjective
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

NET = {"patch_size": 8, "factor": 8, "width": 16, "depth": 2, "heads": 2, "layers": [1], "start": "xavier"}
VIT = "imtok.encoders.pretrained_vit.PretrainedViTEncoder"


def tokenizer_of(**changes):
    torch.manual_seed(0)
    net = {"_target_": VIT, "weights": "random", "train": "none", **NET}
    decoder = {"patch_size": 8, "feature_dim": 16, "width": 32, "depth": 1, "heads": 2}
    parts = {
        "encoder": {"_target_": "imtok.encoders.lavit.SelectingEncoder", "net": net, "depth": 1, "heads": 2},
        "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [5, 5, 5]},
        "decoder": {"_target_": "imtok.decoders.lavit.FeatureQueryDecoder", **decoder},
        "image_size": 32,
    }
    return Tokenizer.from_config(parts | changes)


def batch_of(number=6):
    image = torch.randint(256, (number, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Batch(image, torch.full((number,), -1), torch.arange(number), [""] * number)


def losses_of(tokenizer, **settings):
    torch.manual_seed(3)
    return LaVITObjective({"l2": L2Loss()}, **settings)(tokenizer, batch_of(), 0, torch.Generator())


def test_the_terms_are_those_of_the_paper():
    tokenizer = tokenizer_of()
    losses = losses_of(tokenizer, rate=0.25)
    torch.manual_seed(3)
    selected = tokenizer.encoder.selected(to_float(batch_of().image))
    quantized = tokenizer.quantizer(selected.values, selected.keep)
    rebuilt = tokenizer.decoder.rebuilt(quantized.latents, (32, 32), selected.keep)
    cosine = F.cosine_similarity(rebuilt.features, selected.features, dim=-1).mean()
    torch.testing.assert_close(losses.terms["features"].value, 1 - cosine)
    shares = selected.keep.float().mean(1)
    torch.testing.assert_close(losses.terms["rate"].value, (0.25 - shares).square().mean())
    assert (losses.terms["rate"].weight, losses.terms["features"].weight) == (2, 1)
    total = sum(term.weight * term.value for term in losses.terms.values())
    torch.testing.assert_close(losses.total, total)
    assert losses.numbers["tokens"] == selected.keep.double().sum(1).mean()


@pytest.mark.parametrize("settings", [{"rate_weight": 0.0}, {"feature_weight": 0.0}])
def test_the_selector_learns_from_features_and_from_its_rate(settings):
    tokenizer = tokenizer_of()
    losses_of(tokenizer, **settings).total.backward()
    assert all(value.grad.abs().max() > 0 for value in tokenizer.encoder.selector.parameters())
    assert all(value.grad is None for value in tokenizer.encoder.net.parameters())


def test_the_share_of_patches_goes_where_it_is_wanted():
    tokenizer = tokenizer_of()
    optimizer = torch.optim.Adam([value for value in tokenizer.parameters() if value.requires_grad], 3e-3)
    for _ in range(60):
        losses = LaVITObjective({"l2": L2Loss()}, rate_weight=20.0)(tokenizer, batch_of(), 0, torch.Generator())
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    with torch.no_grad():
        shares = [tokenizer.encoder.selected(to_float(batch_of().image)).keep.float().mean() for _ in range(20)]
    assert abs(torch.stack(shares).mean().item() - 1 / 3) < 0.08


def test_left_out_tokens_change_nothing_wherever_they_are():
    decoder, latents = tokenizer_of().decoder.eval(), torch.randn(2, 16, 3)
    keep = (torch.arange(16) < 5).expand(2, -1)
    with torch.no_grad():
        image = decoder(latents, (32, 32), keep)
        torch.testing.assert_close(decoder(latents[:, :5], (32, 32)), image, rtol=0, atol=1e-5)
        torch.testing.assert_close(decoder(latents * keep[..., None], (32, 32), keep), image, rtol=0, atol=1e-6)
        spread, places = torch.randn(2, 16, 3), torch.tensor([[0, 3, 4, 9, 15], [1, 2, 3, 4, 5]])
        spread.scatter_(1, places[..., None].expand(-1, -1, 3), latents[:, :5])
        anywhere = torch.zeros(2, 16, dtype=torch.bool).scatter(1, places, True)
        torch.testing.assert_close(decoder(spread, (32, 32), anywhere), image, rtol=0, atol=1e-6)
        none = torch.zeros_like(keep)
        assert decoder(latents, (32, 32), none).isfinite().all()
        assert torch.equal(decoder(latents, (32, 32), none), decoder(spread, (32, 32), none))


def test_tokens_are_told_apart_by_their_place_and_each_query_makes_its_own_patch():
    decoder, latents = tokenizer_of().decoder.eval(), torch.randn(1, 5, 3)
    with torch.no_grad():
        before = decoder.rebuilt(latents, (32, 32))
        decoder.queries[6] += torch.randn(32)
        after = decoder.rebuilt(latents, (32, 32))
        for value in (decoder.embed.weight, decoder.positions):
            value.mul_(50)  # for what they say to be seen
        assert (decoder(latents.flip(1), (32, 32)) - decoder(latents, (32, 32))).abs().max() > 1e-4
    patches = (after.image - before.image).abs().unflatten(2, (4, 8)).unflatten(4, (4, 8)).amax((1, 3, 5))
    assert patches.flatten().argmax() == 6
    assert (after.features - before.features).abs().amax(-1).argmax() == 6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", "patch_size": 8, "width": 8}}, "be lavit for"),
        (
            {"decoder": {"_target_": "imtok.decoders.lavit.FeatureQueryDecoder", "patch_size": 8, "feature_dim": 9,
                         "width": 16, "depth": 1, "heads": 2}},
            "decoder.feature_dim must be 16, the width of encoder.net, got 9",
        ),
        ({"regularizer": {"_target_": "imtok.regularizers.prefix.NestedDropout"}}, "regularizer must be none"),
    ],
)  # fmt: skip
def test_parts_that_do_not_belong_together_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        losses_of(tokenizer_of(**changes))
    with pytest.raises(ValueError, match=r"rate must be in \(0, 1\]"):
        LaVITObjective({"l2": L2Loss()}, rate=0.0)
