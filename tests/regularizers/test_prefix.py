"""Nested dropout: the laws of the lengths, who shares a draw, and what is left of the tokens."""

from pathlib import Path

import pytest
import torch
from encoders.presets import unchecked

from imtok.construct import construct
from imtok.measures.code_statistics import CodeUsage
from imtok.options import option
from imtok.quantizers.fsq import FSQ
from imtok.quantizers.multiscale import MultiScale
from imtok.quantizers.vq import VQ
from imtok.regularizers.prefix import NestedDropout, draw_lengths
from imtok.tokenizer import Tokenizer
from imtok.types import Quantized

CONFIGS = Path(__file__).parents[2] / "configs" / "regularizer"
PRESETS = sorted(
    path.stem
    for path in CONFIGS.glob("*.yaml")
    if str(option("regularizer", path.stem).get("_target_")).endswith("NestedDropout")
)
MANY = 20_000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def quantizer():
    return FSQ([8, 5, 5, 5])


def quantized(images=8, tokens=16):
    return quantizer()(torch.randn(images, tokens, 4))


def drop(dropout, whole, step=0, seed=0):
    return dropout(whole, quantizer(), step, seeded(seed))


def uniform(values):
    return {value: 1 / len(values) for value in values}


# Lengths of FlexTok's law for 256 tokens: k is uniform from 1 to 256 and rounded up to 2^j, so that 2^j stands for the
# 2^(j - 1) numbers above 2^(j - 1).
ROUNDED_UP = {1: 1 / 256} | {2**j: 2 ** (j - 1) / 256 for j in range(1, 9)}

LAWS = {
    "uniform": (("uniform", 1, 256, 1), uniform(range(1, 257))),
    "uniform from 32 to 480": (("uniform", 32, 480, 1), uniform(range(32, 481))),
    "KARL's budgets": (("uniform", 16, 368, 16), uniform(range(16, 369, 16))),
    "stride that misses the end": (("uniform", 2, 9, 3), uniform([2, 5, 8])),
    "powers of two": (("powers_of_two", 1, 256, 1), uniform([1, 2, 4, 8, 16, 32, 64, 128, 256])),
    "powers of two in a range": (("powers_of_two", 3, 40, 1), uniform([4, 8, 16, 32, 40])),
    "rounded up": (("uniform_to_power_of_two", 1, 256, 1), ROUNDED_UP),
    "rounded up, at most all": (("uniform_to_power_of_two", 1, 6, 1), {1: 1 / 6, 2: 1 / 6, 4: 2 / 6, 6: 2 / 6}),
    "one": (("uniform", 7, 7, 1), {7: 1.0}),
}


@pytest.mark.parametrize("name", LAWS)
def test_lengths_follow_their_law(name):
    """Chi-square of the counts: below its mean plus five deviations, and no length outside the support."""
    (law, fewest, most, stride), expected = LAWS[name]
    drawn = draw_lengths(law, MANY, fewest, most, stride, seeded())
    counts = torch.bincount(drawn, minlength=most + 1).double()
    assert set(drawn.unique().tolist()) <= set(expected)
    share = torch.tensor([expected.get(length, 0.0) for length in range(len(counts))], dtype=torch.float64)
    used = share > 0
    distance = ((counts - MANY * share)[used].square() / (MANY * share[used])).sum().item()
    freedom = int(used.sum()) - 1
    assert distance <= freedom + 5 * (2 * freedom) ** 0.5 + 1e-9


def test_the_published_table_of_rounded_up_lengths():
    drawn = draw_lengths("uniform_to_power_of_two", MANY, 1, 256, 1, seeded())
    shares = [(drawn == length).double().mean().item() for length in (256, 128, 64, 32, 16, 8, 4)]
    assert shares == pytest.approx([0.50, 0.25, 0.12, 0.06, 0.03, 0.016, 0.008], abs=0.01)


def test_the_laws_are_told_apart():
    """The test above would find one law in the place of another."""
    drawn = draw_lengths("powers_of_two", MANY, 1, 256, 1, seeded())
    assert (drawn == 256).double().mean().item() == pytest.approx(1 / 9, abs=0.01)


def test_each_image_has_a_length_of_its_own():
    dropped = drop(NestedDropout(), quantized(images=64))
    lengths = dropped.keep.sum(1)
    assert len(lengths.unique()) > 8
    assert torch.equal(dropped.keep, torch.arange(16) < lengths[:, None])


def test_what_is_dropped_is_zero_and_what_is_kept_stays_bit_for_bit():
    whole = quantized()
    dropped = drop(NestedDropout(), whole)
    kept = dropped.keep[..., None]
    assert torch.equal(dropped.latents, torch.where(kept, whole.latents, 0))
    assert torch.equal(dropped.ids, torch.where(kept, whole.ids, 0))
    assert torch.equal(quantizer().decode(dropped.ids)[dropped.keep], dropped.latents[dropped.keep])


@pytest.mark.parametrize("scope", ["batch", "global"])
def test_a_shared_length_makes_the_sequence_shorter(scope):
    whole, lengths = quantized(), set()
    for seed in range(20):
        dropped = drop(NestedDropout(scope=scope), whole, step=seed, seed=seed)
        length = dropped.ids.shape[1]
        lengths.add(length)
        assert dropped.keep is None
        assert torch.equal(dropped.ids, whole.ids[:, :length])
        assert torch.equal(dropped.latents, whole.latents[:, :length])
    assert len(lengths) > 8


@pytest.mark.parametrize("scope", ["sample", "batch", "global"])
def test_no_gradient_reaches_what_was_dropped(scope):
    latents = torch.randn(8, 16, 4, requires_grad=True)
    dropped = drop(NestedDropout(scope=scope), quantizer()(latents), step=1)
    dropped.latents.square().sum().backward()
    length = dropped.latents.shape[1]
    keep = torch.ones(8, length, dtype=torch.bool) if dropped.keep is None else dropped.keep
    keep = torch.nn.functional.pad(keep, (0, 16 - length))
    assert 0 < keep.sum() < keep.numel()
    assert not latents.grad[~keep].any()
    assert latents.grad[keep].any(-1).all()


def test_losses_and_statistics_are_those_of_all_tokens():
    table = VQ(dim=4, codebook_size=32, normalize=False)
    latents = torch.randn(8, 16, 4, requires_grad=True)
    whole = table(latents)
    for scope in ("sample", "batch", "global"):
        dropped = NestedDropout(scope=scope)(whole, table, 0, seeded())
        assert dropped.losses is whole.losses
        assert dropped.stats is whole.stats
    torch.stack([loss.value for loss in dropped.losses.values()]).sum().backward()
    assert latents.grad.any(-1).all()


@pytest.mark.parametrize("scope", ["sample", "batch"])
def test_codes_are_counted_over_what_is_kept(scope):
    dropped = drop(NestedDropout(scope=scope, most=4), quantized())
    usage = CodeUsage([1000])
    usage.update(dropped.ids, dropped.keep)
    kept = dropped.ids.shape[0] * dropped.ids.shape[1] if dropped.keep is None else int(dropped.keep.sum())
    assert int(usage.counts[0].sum()) == kept <= 8 * 4


def lengths_by_rank(scope, step, seed=0):
    """Two ranks with generators of their own, as training hands them in."""
    dropout = NestedDropout(scope=scope, seed=seed)
    return torch.stack([dropout.lengths(4, 256, step, seeded(1000 * step + rank)) for rank in range(2)])


def test_only_the_global_scope_draws_the_same_on_all_ranks():
    for scope in ("sample", "batch", "global"):
        drawn = torch.stack([lengths_by_rank(scope, step) for step in range(50)])
        alike = (drawn[:, 0] == drawn[:, 1]).all(1).double().mean().item()
        assert (alike == 1) if scope == "global" else (alike < 0.1)
        within = (drawn == drawn[..., :1]).all(-1).double().mean().item()
        assert (within < 0.1) if scope == "sample" else (within == 1)
        assert len(drawn[:, 0, 0].unique()) > 30


def test_the_global_draw_follows_the_law_the_step_and_the_seed():
    dropout = NestedDropout("powers_of_two", scope="global")
    drawn = torch.stack([dropout.lengths(1, 256, step, seeded())[0] for step in range(2000)])
    counts = torch.bincount(drawn.log2().round().long(), minlength=9)
    assert ((counts - 2000 / 9).square() / (2000 / 9)).sum() < 8 + 5 * 4
    assert not torch.equal(lengths_by_rank("global", 3, seed=0), lengths_by_rank("global", 3, seed=1))


def test_only_the_generator_decides_and_the_global_one_is_left_alone():
    whole = quantized()
    for scope in ("sample", "batch", "global"):
        state = torch.get_rng_state()
        one, two = (drop(NestedDropout(scope=scope), whole).latents for _ in range(2))
        assert torch.equal(one, two)
        assert torch.equal(torch.get_rng_state(), state)


def test_the_share_of_images_that_lose_tokens_is_the_one_asked_for():
    lengths = NestedDropout(most=8, probability=0.3).lengths(MANY, 16, 0, seeded())
    assert (lengths < 16).double().mean().item() == pytest.approx(0.3, abs=0.02)
    assert (NestedDropout(most=8, probability=0.0).lengths(100, 16, 0, seeded()) == 16).all()


def test_dropping_starts_at_its_step():
    whole = quantized()
    dropout = NestedDropout(start_step=10)
    before = drop(dropout, whole, step=9)
    assert before.keep is None
    assert torch.equal(before.latents, whole.latents)
    assert not drop(dropout, whole, step=10).keep.all()


@pytest.mark.parametrize("scope", ["sample", "batch"])
def test_redundant_latents_never_reach_the_decoder_and_spare_those_before_them(scope):
    """ReTok's constants: of 480 latents with lengths from 32 on, every second image keeps the first 256 whole."""
    whole = Quantized(torch.ones(200, 480, 1), torch.ones(200, 480, 1, dtype=torch.int64))
    dropout = NestedDropout(fewest=32, redundant=224, scope=scope)
    lengths = []
    for seed in range(5 if scope == "sample" else 400):
        dropped = drop(dropout, whole, seed=seed)
        assert dropped.ids.shape[1] <= 256
        lengths.append(dropped.keep.sum(1) if scope == "sample" else torch.tensor([dropped.ids.shape[1]]))
    drawn = torch.cat(lengths)
    assert drawn.min() >= 32
    assert (drawn == 256).double().mean().item() == pytest.approx(225 / 449, abs=0.07)
    assert drop(NestedDropout(redundant=224, start_step=1), whole).ids.shape[1] == 256


def test_tokens_that_the_encoder_left_out_stay_out():
    keep = torch.rand(64, 16) < 0.5
    whole = quantizer()(torch.randn(64, 16, 4), keep)
    dropped = drop(NestedDropout(), whole)
    assert not (dropped.keep & ~keep).any()
    assert dropped.keep.sum() < keep.sum()
    cut = drop(NestedDropout(scope="batch", most=8), whole)
    assert torch.equal(cut.keep, keep[:, : cut.ids.shape[1]])


def test_half_precision_latents_stay_so():
    whole = quantizer()(torch.randn(8, 16, 4).bfloat16())
    assert drop(NestedDropout(), whole).latents.dtype == torch.bfloat16


def test_evaluation_draws_nothing():
    """Without a generator, or outside training, the tokenizer leaves the regulariser and all random numbers alone."""
    part = {"patch_size": 8, "width": 16, "depth": 1}
    tokenizer = Tokenizer.from_config(
        {
            "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", **part},
            "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 5, 5, 5]},
            "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", **part},
            "regularizer": {"_target_": "imtok.regularizers.prefix.NestedDropout", "most": 8},
        }
    )
    image, generator = torch.rand(2, 3, 32, 32), seeded()
    states = (torch.get_rng_state(), generator.get_state())
    assert tokenizer(image).quantized.keep is None
    assert tokenizer.eval()(image, generator=generator).quantized.keep is None
    assert tokenizer.encode(image).keep is None
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(generator.get_state(), states[1])


def test_published_presets_are_what_they_say():
    assert {"flextok", "flextok_pow2", "nested", "one_d_piece", "retok", "semanticist"} <= set(PRESETS)
    supports = {
        "one_d_piece": (256, set(range(1, 257)), "batch"),
        "flextok": (256, {2**j for j in range(9)}, "sample"),
        "flextok_pow2": (256, {2**j for j in range(9)}, "sample"),
        "semanticist": (256, set(range(1, 257)), "sample"),
        "retok": (480, set(range(32, 481)), "batch"),
    }
    for name, (tokens, support, scope) in supports.items():
        dropout = preset(name)
        drawn = draw_lengths(dropout.law, MANY, dropout.fewest, tokens, dropout.stride, seeded())
        assert set(drawn.tolist()) == support, name
        assert dropout.scope == scope, name


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_drops_something(name):
    dropout = preset(name)
    whole = Quantized(torch.ones(64, 480, 1), torch.ones(64, 480, 1, dtype=torch.int64))
    dropped = drop(dropout, whole, step=dropout.start_step)
    assert dropped.latents.sum() < whole.latents.sum()


def preset(name):
    config = option("regularizer", name)
    assert config["seed"] == "${seed}"
    return construct({**config, "seed": 0})


def test_what_cannot_be_dropped_is_refused():
    with pytest.raises(ValueError, match="at most the 16 latents of the encoder, got fewest 17"):
        drop(NestedDropout(fewest=17), quantized())
    with pytest.raises(ValueError, match="at most the 16 latents of the encoder, got fewest 1 and most 17"):
        drop(NestedDropout(most=17), quantized())
    with pytest.raises(ValueError, match="redundant must be fewer than the 16 latents, got 16"):
        drop(NestedDropout(redundant=16), quantized())
    scales = MultiScale(VQ(dim=4, codebook_size=32, normalize=False), [1, 2, 4], convolutions=1)
    with pytest.raises(ValueError, match="one by one to be dropped, got 21 tokens for 16 latents of MultiScale"):
        NestedDropout()(scales(torch.randn(2, 16, 4)), scales, 0, seeded())


@pytest.mark.parametrize(
    "wrong",
    [
        {"law": "normal"},
        {"scope": "epoch"},
        {"fewest": 0},
        {"fewest": 5, "most": 4},
        {"stride": 0},
        {"stride": 2, "law": "powers_of_two"},
        {"redundant": -1},
        {"start_step": -1},
        {"probability": 1.5},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with unchecked(), pytest.raises(ValueError, match=r"must .*got.*" + str(next(iter(wrong.values())))):
        NestedDropout(**wrong)
