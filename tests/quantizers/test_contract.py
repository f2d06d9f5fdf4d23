"""Every quantizer with a YAML file keeps the contract of ``imtok.quantizers.base.Quantizer``."""

import math

import pytest
import torch
from quantizers.contract import NAMES, WITHOUT_IDS, any_length, build, length, multi_scale
from torch.utils.checkpoint import checkpoint

from imtok.quantizers.base import Quantizer

also_without_ids = pytest.mark.parametrize("name", [*NAMES, *WITHOUT_IDS], indirect=True)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def quantizer(name):
    return build(name)


@pytest.fixture
def latents(quantizer):
    return torch.randn(2, length(quantizer), quantizer.in_dim, requires_grad=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False])
def test_decode_returns_the_latents_of_forward_bit_for_bit(quantizer, latents, dtype, training):
    quantized = quantizer.train(training and not quantizer.noisy)(latents.to(dtype))
    assert quantized.latents.dtype == dtype
    if dtype is torch.float64:  # the table is kept in float32
        torch.testing.assert_close(quantizer.decode(quantized.ids).double(), quantized.latents, rtol=1e-6, atol=1e-6)
    else:
        assert torch.equal(quantizer.decode(quantized.ids).to(dtype), quantized.latents)


@pytest.mark.parametrize("training", [True, False])
def test_in_float64_nothing_is_rounded_to_float32(quantizer, latents, training):
    quantizer.double().train(training and not quantizer.noisy)
    quantized = quantizer(latents.double())
    assert quantizer.decode(quantized.ids).dtype == quantized.latents.dtype == torch.float64
    assert torch.equal(quantizer.decode(quantized.ids), quantized.latents)
    assert all(table.dtype == torch.float64 for table in quantizer.codebook())
    assert all(loss.value.dtype == torch.float64 for loss in quantized.losses.values())


@also_without_ids
def test_autocast_changes_nothing_inside(quantizer, latents):
    settle(quantizer)
    plain = quantizer(latents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = quantizer(latents)
    assert torch.equal(cast.ids, plain.ids)
    assert torch.equal(cast.latents, plain.latents)
    for name, loss in plain.losses.items():
        assert torch.equal(cast.losses[name].value, loss.value), name
    for name, value in plain.stats.items():
        assert torch.equal(cast.stats[name], value), name


def test_ids_are_whole_numbers_inside_the_vocabulary(quantizer, latents):
    ids = quantizer(latents).ids
    assert ids.dtype == torch.int64
    assert ids.shape == (2, quantizer.num_tokens(latents.shape[1]), len(quantizer.vocab_sizes))
    assert (ids >= 0).all()
    assert (ids < torch.tensor(quantizer.vocab_sizes)).all()


def test_codebooks_sum_to_the_latents(quantizer, latents):
    quantized = quantizer.train(not quantizer.noisy)(latents)
    tables = quantizer.codebook()
    assert [tuple(table.shape) for table in tables] == [(size, quantizer.dim) for size in quantizer.vocab_sizes]
    if multi_scale(quantizer):
        return  # the latents are sums of look-ups only up to interpolation
    summed = sum(table[quantized.ids[..., slot]] for slot, table in enumerate(tables))
    torch.testing.assert_close(summed, quantized.latents.detach())


def test_bits_follow_from_the_vocabulary(quantizer):
    nominal = math.log2(math.prod(quantizer.vocab_sizes))
    if any_length(quantizer) or multi_scale(quantizer):
        assert quantizer.bits_per_token == pytest.approx(nominal)
    else:  # what a token's place says of its id is no information
        assert quantizer.bits_per_token < nominal


def test_latents_with_noise_are_near_the_codes_of_their_ids(quantizer, latents):
    if not quantizer.noisy:
        pytest.skip("adds no noise")
    quantized = quantizer(latents)
    codes = quantizer.decode(quantized.ids)
    assert not torch.equal(quantized.latents, codes)
    assert torch.equal(quantizer.eval()(latents).latents, codes)
    assert (quantized.latents - codes).square().mean() < 0.25 * codes.square().mean()


@also_without_ids
def test_gradients_of_the_output_reach_the_input(quantizer, latents):
    codes = quantizer(latents).latents
    (codes * torch.randn_like(codes)).sum().backward()
    assert latents.grad is not None
    assert (latents.grad != 0).float().mean() > 0.7  # the pieces of a sequence may differ in width


def test_every_parameter_learns_in_one_step(quantizer, latents):
    quantized = quantizer(latents)
    terms = [value * weight for value, weight in quantized.losses.values()]
    (quantized.latents.square().sum() + sum(terms)).backward()
    for name, parameter in quantizer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@also_without_ids
def test_losses_are_finite_scalars(quantizer, latents):
    for name, (value, weight) in quantizer(latents).losses.items():
        assert value.shape == (), name
        assert torch.isfinite(value), name
        assert math.isfinite(weight), name


@also_without_ids
def test_evaluation_has_the_losses_of_training_except_entropies_of_a_batch(quantizer, latents):
    trained = {name for name in quantizer(latents).losses if not name.startswith("entropy_")}
    assert set(quantizer.eval()(latents).losses) == trained


@also_without_ids
def test_what_is_drawn_depends_on_the_generator_alone(quantizer, latents):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, second, other = (quantizer(latents, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.latents, second.latents)
    assert torch.equal(torch.get_rng_state(), state)
    if any(part.stochastic for part in quantizer.modules() if isinstance(part, Quantizer)):
        assert not torch.equal(first.latents, other.latents)
        assert not torch.equal(first.latents, quantizer(latents).latents)


@also_without_ids
def test_forward_changes_no_state(quantizer, latents):
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(latents)
    checkpoint(lambda x: quantizer(x).latents, latents, use_reentrant=False).sum().backward()
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, before[name]), name


@also_without_ids
def test_a_mask_of_ones_changes_nothing(quantizer, latents):
    settle(quantizer)
    if multi_scale(quantizer):
        pytest.skip("its scales mix all latents: it refuses masks")
    plain, masked = quantizer(latents), quantizer(latents, torch.ones(latents.shape[:2], dtype=torch.bool))
    assert torch.equal(plain.latents, masked.latents)
    assert torch.equal(plain.ids, masked.ids)
    for name in plain.losses:
        torch.testing.assert_close(plain.losses[name].value, masked.losses[name].value, rtol=1e-6, atol=1e-7)


def test_masked_latents_take_part_in_nothing(quantizer, latents):
    if not any_length(quantizer):
        pytest.skip("tells latents apart by their place")
    keep = torch.rand(2, 12) < 0.6
    spoilt = latents.detach().masked_fill(~keep[..., None], float("nan")).requires_grad_()
    settle(quantizer)
    masked, compact = quantizer(spoilt, keep), quantizer(latents.detach()[keep][None])
    assert torch.equal(masked.latents[keep], compact.latents[0])
    assert torch.equal(masked.ids[keep], compact.ids[0])
    assert not masked.latents[~keep].any()
    assert not masked.ids[~keep].any()
    for name in compact.losses:
        torch.testing.assert_close(masked.losses[name].value, compact.losses[name].value, rtol=1e-5, atol=1e-6)
    for name in compact.stats:
        torch.testing.assert_close(masked.stats[name], compact.stats[name], rtol=1e-5, atol=1e-5)
    masked.latents.sum().backward()
    assert not spoilt.grad[~keep].any()


@also_without_ids
def test_tokens_do_not_depend_on_their_company_or_memory_layout(quantizer, latents):
    whole = quantizer.eval()(latents)
    if not any_length(quantizer):
        pytest.skip("tells latents apart by their place")
    order = torch.randperm(12)
    assert torch.equal(quantizer(latents[:, order]).ids, whole.ids[:, order])
    assert torch.equal(quantizer(latents[:1, 3:5]).ids, whole.ids[:1, 3:5])
    strided = latents.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(quantizer(strided).latents, whole.latents)


@also_without_ids
@pytest.mark.parametrize("scale", [0.0, -0.0, 1e-8, 1e4])
def test_extreme_latents_give_finite_values_and_gradients(quantizer, latents, scale):
    extreme = (latents.detach() * scale).requires_grad_()
    quantized = quantizer(extreme)
    (quantized.latents.sum() + sum(value * weight for value, weight in quantized.losses.values())).backward()
    assert torch.isfinite(quantized.latents).all()
    assert torch.isfinite(extreme.grad).all()


@also_without_ids
def test_nan_is_not_hidden_behind_a_code(quantizer, latents):
    spoilt = latents.detach().clone()
    spoilt[0, 3] = float("nan")
    assert quantizer(spoilt).latents[0, 3].isnan().any()


@pytest.mark.parametrize("wrong", ["negative", "too large"])
def test_ids_out_of_range_are_refused_by_slot_value_and_range(quantizer, latents, wrong):
    ids = quantizer(latents).ids
    for slot in {0, len(quantizer.vocab_sizes) - 1}:
        size = quantizer.vocab_sizes[slot]
        spoilt = ids.clone()
        spoilt[1, 0, slot] = -1 if wrong == "negative" else size
        found = r"-1 to \d+" if wrong == "negative" else rf"\d+ to {size}"
        with pytest.raises(ValueError, match=rf"^ids of slot {slot} must lie in \[0, {size}\), got {found}$"):
            quantizer.decode(spoilt)
    with pytest.raises(ValueError, match=r"^ids must have \d+ slots in their last axis"):
        quantizer.decode(torch.cat([ids, ids], -1))


def test_what_is_no_sequence_of_whole_numbers_is_refused(quantizer, latents):
    """Bytes would overflow in the sums that make codes of ids, and fractions lie between codes."""
    ids = quantizer(latents).ids
    for wrong in (ids.to(torch.uint8), ids.to(torch.uint16), ids.bool(), ids + 0.5):
        with pytest.raises(ValueError, match=rf"^ids must be int64, got {wrong.dtype}; give ids.long\(\)$"):
            quantizer.decode(wrong)
    with pytest.raises(
        ValueError, match=r"^ids must have three axes: images, tokens and slots, got shape \(\d+, \d+\)$"
    ):
        quantizer.decode(ids[0])
    assert torch.equal(quantizer.decode(ids.int()), quantizer.decode(ids))


def test_ids_of_what_is_not_kept_are_no_error(quantizer, latents):
    ids = torch.zeros_like(quantizer(latents).ids)
    assert torch.isfinite(quantizer.decode(ids)).all()


def test_neighbours_begin_with_the_code_itself_and_are_distinct(quantizer, latents):
    ids = quantizer(latents).ids
    near = quantizer.neighbours(ids, 5)
    assert near.shape == (*ids.shape, 5)
    assert torch.equal(near[..., 0], ids)
    assert (near.sort(-1).values.diff(dim=-1) > 0).all()
    assert (near < torch.tensor(quantizer.vocab_sizes)[:, None]).all()
    assert (near >= 0).all()


def test_more_neighbours_than_codes_are_refused(quantizer, latents):
    with pytest.raises(ValueError, match="neighbours must be between 1 and the vocabulary"):
        quantizer.neighbours(quantizer(latents).ids, max(quantizer.vocab_sizes) + 1)


def test_tables_stay_out_of_half_precision(quantizer, latents):
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    for cast in (quantizer.bfloat16, quantizer.half):
        cast()
        assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def test_saved_state_gives_the_same_codes(name, quantizer, latents):
    quantized = quantizer(latents)
    quantizer.update(quantized.stats)
    torch.manual_seed(99)
    twin = build(name)
    twin.load_state_dict(quantizer.state_dict())
    assert torch.equal(settle(twin)(latents).latents, settle(quantizer)(latents).latents)


@also_without_ids
def test_a_latent_of_the_wrong_width_is_refused(quantizer):
    with pytest.raises(ValueError, match=f"must be {quantizer.in_dim} wide"):
        quantizer(torch.randn(1, 4, quantizer.in_dim + 1))


def settle(quantizer):
    """Evaluation mode for quantizers that draw ids at random in training: two calls can only then be compared."""
    return quantizer.train(quantizer.training and not quantizer.stochastic)
