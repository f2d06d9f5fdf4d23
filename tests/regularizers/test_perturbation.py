"""Latent perturbation: how many ids change, to which codes, and what stays."""

import math
from dataclasses import replace

import pytest
import torch
from quantizers.contract import NAMES, config, length, smaller

from imtok.construct import construct
from imtok.measures.pfid import Draws, perturb
from imtok.quantizers.continuous import Continuous
from imtok.quantizers.fsq import FSQ
from imtok.quantizers.lfq import LFQ
from imtok.quantizers.multiscale import MultiScale
from imtok.quantizers.product import Product
from imtok.quantizers.residual import Residual
from imtok.quantizers.segments import Segments
from imtok.quantizers.vq import VQ
from imtok.regularizers.perturbation import Perturbation, near_latents
from imtok.tokenizer import Tokenizer


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def table(size=64, dim=4, normalize=False):
    quantizer = VQ(dim=dim, codebook_size=size, normalize=normalize)
    torch.nn.init.normal_(quantizer.weight)
    return quantizer


def changed_images(shown, quantized):
    return (shown.latents != quantized.latents).flatten(1).any(1)


def within_3_sigma(count, trials, chance):
    return abs(count - trials * chance) <= 3 * math.sqrt(trials * chance * (1 - chance)) + 1e-9


@pytest.mark.parametrize("center", ["code", "latent"])
@pytest.mark.parametrize(("alpha", "delta"), [(1.0, 2), (0.5, 8), (0.9, 64), (0.3, 3), (1.0, 1), (0.0, 8)])
def test_a_part_alpha_times_1_minus_1_over_delta_of_the_ids_changes(alpha, delta, center):
    quantizer = table()
    quantized = quantizer(torch.randn(40, 250, 4))
    shown = Perturbation(alpha, 1.0, delta, center=center)(quantized, quantizer, 0, seeded())
    tokens = int((shown.latents != quantized.latents).any(-1).sum())
    assert within_3_sigma(tokens, 10_000, alpha * (1 - 1 / delta))
    torch.testing.assert_close(shown.losses["perturbed"].value.item(), tokens / 10_000, atol=1e-6, rtol=0)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 32])
def test_images_are_drawn_one_by_one_at_any_batch_size(batch):
    """The first int(beta b) images, as published, are none below a batch of 10."""
    quantizer, perturbation = table(), Perturbation(1.0, 0.1, 64)
    quantized = quantizer(torch.randn(batch, 16, 4))
    draws, places = 4000 // batch, torch.zeros(batch)
    for seed in range(draws):
        places += changed_images(perturbation(quantized, quantizer, 0, seeded(seed)), quantized)
    assert within_3_sigma(int(places.sum()), draws * batch, 0.1)
    assert all(within_3_sigma(int(count), draws, 0.1) for count in places[[0, -1]]), "no place is favoured"


@pytest.mark.parametrize("settings", [(0.0, 1.0, 8), (1.0, 0.0, 8), (1.0, 1.0, 1)], ids=["alpha", "beta", "delta"])
def test_alpha_0_beta_0_or_delta_1_is_the_identity_bit_for_bit(settings):
    quantizer = table(normalize=True)
    quantized = quantizer(torch.randn(8, 16, 4))
    shown = Perturbation(*settings)(quantized, quantizer, 0, seeded())
    assert shown.latents is quantized.latents
    assert shown.losses["perturbed"].value == 0


def test_ids_stats_and_losses_are_the_quantizers_own_and_the_share_weighs_nothing():
    quantizer = VQ(dim=4, codebook_size=64, restart_below=0.1)
    quantized = quantizer(torch.randn(8, 16, 4))
    shown = Perturbation(1.0, 1.0, 16)(quantized, quantizer, 0, seeded())
    assert shown.ids is quantized.ids
    assert shown.stats is quantized.stats
    assert {name: shown.losses[name] for name in quantized.losses} == quantized.losses
    assert shown.losses.keys() - quantized.losses.keys() == {"perturbed"}
    assert shown.losses["perturbed"].weight == 0
    assert not shown.losses["perturbed"].value.requires_grad


def test_the_new_id_is_any_of_the_delta_nearest_codes_with_equal_chance():
    quantizer = table(size=32)
    latents = torch.randn(1, 1, 4)
    quantized = quantizer(latents)
    many = replace(
        quantized,
        latents=quantized.latents.expand(6000, 1, 4).contiguous(),
        ids=quantized.ids.expand(6000, 1, 1),
        encoded=None,
    )
    shown = Perturbation(1.0, 1.0, 5)(many, quantizer, 0, seeded())
    found = quantizer(shown.latents).ids.flatten()
    distance = (quantizer.table()[quantized.ids.item()] - quantizer.table()).norm(dim=-1)
    nearest = distance.argsort()[:5]
    counts = torch.stack([(found == code).sum() for code in nearest])
    assert counts.sum() == 6000, "no other code is drawn"
    assert all(within_3_sigma(int(count), 6000, 0.2) for count in counts)


def test_around_the_latent_candidates_are_the_codes_nearest_to_what_the_encoder_gave():
    quantizer = table(size=128)
    latents = torch.randn(2, 10, 4)
    quantized = quantizer(latents)
    near = near_latents(quantized.ids, quantized.latents, latents, quantizer.codebook(), 6)
    expected = torch.cdist(latents, quantizer.table()).argsort(-1)[..., :6]
    assert torch.equal(near[:, :, 0], expected)
    assert not torch.equal(near, quantizer.neighbours(quantized.ids, 6))


def test_around_the_latent_each_slot_is_taken_with_the_others_as_they_are():
    """Brute force: put every code into the slot, look up the whole token."""
    for quantizer in (Product([table(16, 2), table(16, 3)]), Residual([table(16, 3), table(16, 3)])):
        latents = torch.randn(1, 5, quantizer.dim)
        quantized = quantizer(latents)
        near = near_latents(quantized.ids, quantized.latents, latents, quantizer.codebook(), 4)
        for slot in range(2):
            ids = quantized.ids[:, :, None].repeat(1, 1, 16, 1)
            ids[..., slot] = torch.arange(16)
            tried = quantizer.decode(ids.view(1, -1, 2)).view(1, 5, 16, -1)
            expected = (tried - latents[:, :, None]).norm(dim=-1).argsort(-1)
            own = quantized.ids[..., slot, None]
            others = expected[expected != own].view(1, 5, 15)[..., :3]
            assert torch.equal(near[:, :, slot], torch.cat([own, others], -1))


def test_the_chosen_code_comes_first_even_where_another_is_nearer_to_the_latent():
    quantizer = FSQ([5, 5])
    latents = 4 * torch.randn(3, 9, 2)  # far outside its bound
    quantized = quantizer(latents)
    near = near_latents(quantized.ids, quantized.latents, latents, quantizer.codebook(), 3)
    assert torch.equal(near[..., 0], quantized.ids)
    assert (near.sort(-1).values.diff(dim=-1) > 0).all(), "no code comes twice"


@pytest.mark.parametrize("name", NAMES)
def test_every_quantizer_can_be_perturbed(name):
    """The latents are those of the ids that differ in the logged share, drawn per slot among its neighbours."""
    quantizer = construct(smaller(config(name))).eval()
    latents = torch.randn(6, length(quantizer), quantizer.in_dim, requires_grad=True)
    quantized = quantizer(latents)
    delta = min(4, *quantizer.vocab_sizes)
    shown = Perturbation(0.5, 1.0, delta)(quantized, quantizer, 0, seeded())
    share, ids = shown.losses["perturbed"].value.item(), quantized.ids.numel()
    assert within_3_sigma(share * ids, ids, 0.5 * (1 - 1 / delta))
    assert changed_images(shown, quantized).any()
    direction = torch.randn_like(shown.latents)
    (wanted,) = torch.autograd.grad((quantized.latents * direction).sum(), latents, retain_graph=True)
    (gradient,) = torch.autograd.grad((shown.latents * direction).sum(), latents)
    assert torch.equal(gradient, wanted), "straight through, as of the code that was chosen"


def test_tokens_that_are_not_kept_stay_zero_and_do_not_count():
    quantizer = table()
    keep = torch.rand(20, 50, generator=seeded()) < 0.3
    quantized = quantizer(torch.randn(20, 50, 4), keep)
    shown = Perturbation(1.0, 1.0, 2)(quantized, quantizer, 0, seeded())
    assert (shown.latents[~keep] == 0).all()
    changed = (shown.latents != quantized.latents).any(-1)
    assert within_3_sigma(int(changed.sum()), int(keep.sum()), 0.5)
    torch.testing.assert_close(shown.losses["perturbed"].value, changed.sum() / keep.sum())


def test_values_go_linearly_from_first_to_last_and_delta_stays_at_least_1():
    perturbation = Perturbation([1.0, 0.0], [0.0, 0.4], [100, 1], anneal_start=100, anneal_steps=50)
    assert perturbation.settings(0) == perturbation.settings(100) == (1.0, 0.0, 100)
    assert perturbation.settings(150) == perturbation.settings(10**6) == (0.0, 0.4, 1)
    alpha, beta, delta = perturbation.settings(125)
    assert (alpha, beta, delta) == (0.5, pytest.approx(0.2), 50)
    deltas = [perturbation.settings(step)[2] for step in range(200)]
    assert deltas == sorted(deltas, reverse=True)
    quantizer = table()
    quantized = quantizer(torch.randn(4, 8, 4))
    assert perturbation(quantized, quantizer, 150, seeded()).latents is quantized.latents


def test_the_same_generator_gives_the_same_and_another_step_of_the_run_another_draw():
    quantizer, perturbation = table(), Perturbation(0.5, 0.5, 8)
    quantized = quantizer(torch.randn(16, 8, 4))
    one, same, other = (perturbation(quantized, quantizer, 0, seeded(seed)).latents for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_half_precision_around_it_changes_nothing():
    quantizer = LFQ(slot_bits=[6])
    quantized = quantizer(torch.randn(4, 8, 6))
    perturbation = Perturbation(1.0, 1.0, 8)
    expected = perturbation(quantized, quantizer, 0, seeded()).latents
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(perturbation(quantized, quantizer, 0, seeded()).latents, expected)


def test_it_changes_as_much_as_the_measure_that_it_prepares_for():
    """The perturbation of pFID and this one have the same law."""
    quantizer = table()
    quantized = quantizer(torch.randn(40, 100, 4))
    measured = perturb(
        quantized.ids, quantizer.neighbours(quantized.ids, 8), Draws([*map(str, range(40))], (100, 1), 0), 0.5, 8
    )
    drawn = (measured != quantized.ids).float().mean()
    shown = Perturbation(0.5, 1.0, 8)(quantized, quantizer, 0, seeded())
    assert abs(drawn - shown.losses["perturbed"].value) < 6 * math.sqrt(0.4375 * 0.5625 / 4000)


def test_a_tokenizer_perturbs_in_training_and_never_in_evaluation():
    parts = {
        "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", "patch_size": 8, "width": 16, "depth": 0},
        "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 5]},
        "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", "patch_size": 8, "width": 16, "depth": 0},
        "regularizer": {
            "_target_": "imtok.regularizers.perturbation.Perturbation",
            "alpha": 1.0,
            "beta": 1.0,
            "delta": 9,
        },
    }
    tokenizer, image = Tokenizer.from_config(parts), torch.rand(4, 3, 32, 32) * 2 - 1
    plain = tokenizer(image).image
    perturbed = tokenizer(image, taps=["quantizer"], generator=seeded())
    assert not torch.equal(perturbed.image, plain)
    clean = tokenizer.quantizer.decode(perturbed.quantized.ids)
    assert torch.equal(perturbed.taps["quantizer"], clean), "alignments see the code as it was chosen"
    assert torch.equal(tokenizer.eval()(image, generator=seeded()).image, plain)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"alpha": 1.5}, "alpha and beta"),
        ({"beta": -0.1}, "alpha and beta"),
        ({"delta": 0}, "delta must be at least 1"),
        ({"delta": [8, 0]}, "delta must be at least 1"),
        ({"alpha": [1.0, 0.5, 0.0]}, "pair"),
        ({"anneal_steps": -1}, "anneal"),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Perturbation(**settings)


def test_what_cannot_be_perturbed_is_refused():
    continuous = Continuous(dim=4)
    with pytest.raises(ValueError, match="ids to perturb"):
        Perturbation(1.0, 1.0, 2)(continuous(torch.randn(2, 4, 4)), continuous, 0, seeded())
    quantizer = table(size=8)
    for center in ("code", "latent"):
        with pytest.raises(ValueError, match="vocabulary 8"):
            Perturbation(1.0, 1.0, 9, center=center)(quantizer(torch.randn(2, 4, 4)), quantizer, 0, seeded())
    scales = MultiScale(table(), sizes=[1, 2], convolutions=0)
    pieces = Segments([table(8), table(8)], lengths=[2, 2])
    for several in (scales, pieces):
        with pytest.raises(ValueError, match="center must be code"):
            Perturbation(1.0, 1.0, 2, center="latent")(several(torch.randn(2, 4, 4)), several, 0, seeded())
