"""The net of MGVQ against its formulas, and the masking of its groups."""

import pytest
import torch
from torch.nn import functional as F

from imtok.decoders.mgvq import MGVQDecoder
from imtok.encoders.mgvq import MGVQEncoder
from imtok.nn.efficient_vit import GatedConvolution, LinearAttention
from imtok.nn.norms import BatchNorm, ChannelRMSNorm
from imtok.nn.shuffled_resampling import ShuffledDoubling, ShuffledHalving
from imtok.quantizers.product import Product
from imtok.quantizers.vq import VQ
from imtok.regularizers.part_dropout import PartDropout


def without_convolution(module):
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)
    return module


def test_linear_attention_is_attention_with_rectified_products():
    torch.manual_seed(0)
    part = LinearAttention(8, head_width=4).double()
    features = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    wanted = torch.zeros_like(features)
    qkv = part.qkv(features).unflatten(1, (2, 3, 4)).flatten(-2)
    for head in range(2):
        query, key, value = qkv[:, head].unbind(1)
        weights = query.relu().mT @ key.relu()
        mean = (weights @ value.mT) / weights.sum(-1, keepdim=True).clamp_min(1e-15)
        wanted[:, 4 * head : 4 * head + 4] = mean.mT.unflatten(-1, (3, 5))
    torch.testing.assert_close(part(features), features + part.norm(part.project(wanted)))


def test_queries_without_any_weight_have_finite_gradients():
    part = LinearAttention(8, head_width=4)
    features = torch.zeros(1, 8, 2, 2, requires_grad=True)
    part(features).sum().backward()
    assert torch.isfinite(features.grad).all()
    assert torch.isfinite(part.qkv.weight.grad).all()


def test_the_second_half_of_the_channels_gates_the_first():
    part = GatedConvolution(4).double()
    features = torch.randn(1, 4, 3, 3, dtype=torch.float64)
    hidden = part.each(F.silu(part.widen(features)))
    gated = hidden[:, :16] * F.silu(hidden[:, 16:])
    torch.testing.assert_close(part(features), features + part.norm(part.project(gated)))


def test_shortcuts_are_means_and_repetitions_of_channels_around_a_pixel_shuffle():
    features = torch.randn(2, 8, 4, 6)
    mean = F.pixel_unshuffle(features, 2).unflatten(1, (16, 2)).mean(2)
    torch.testing.assert_close(without_convolution(ShuffledHalving(8, 16))(features), mean)
    repeated = F.pixel_shuffle(features.repeat_interleave(2, 1), 2)
    torch.testing.assert_close(without_convolution(ShuffledDoubling(8, 4))(features), repeated)


def test_batch_norm_follows_torch_in_training_and_afterwards():
    ours, theirs = BatchNorm(4).double(), torch.nn.BatchNorm2d(4).double()
    for seed in range(3):
        features = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + 1
        torch.testing.assert_close(ours(features), theirs(features))
    with torch.no_grad():
        ours(features)  # a pass without gradients leaves no trace
    torch.testing.assert_close(ours.mean, theirs.running_mean)
    torch.testing.assert_close(ours.variance, theirs.running_var)
    torch.testing.assert_close(ours.eval()(features), theirs.eval()(features))


def test_a_batch_with_infinity_leaves_the_running_averages_of_its_channel():
    norm, features = BatchNorm(2), torch.randn(2, 2, 3, 3)
    norm(features)
    before = norm.mean.clone()
    features[0, 0, 0, 0] = float("inf")
    norm(features)
    assert norm.mean[0] == before[0]
    assert norm.mean[1] != before[1]
    assert norm.variance.isfinite().all()


def test_channels_are_divided_by_their_root_mean_square():
    features = torch.randn(1, 4, 2, 2)
    squares = features.square().mean(1, keepdim=True)
    torch.testing.assert_close(ChannelRMSNorm(4)(features), features / (squares + 1e-5).sqrt())


def test_each_group_of_latents_has_a_convolution_of_its_own():
    encoder = MGVQEncoder(32, channels=32, multipliers=(1, 2), depths=(1, 1), transformers=1)
    assert encoder.project.weight.shape == (32, 8, 1, 1)
    assert MGVQDecoder(6, channels=32, multipliers=(1, 2), depths=(1, 1)).project.groups == 2  # of four, two divide 6


@pytest.mark.parametrize("kind", [MGVQEncoder, MGVQDecoder])
def test_settings_that_do_not_fit_are_refused(kind):
    with pytest.raises(ValueError, match=r"transformers at most as many levels, got 2, 2 and 3"):
        kind(8, channels=32, multipliers=(1, 1), depths=(1, 1), transformers=3)
    with pytest.raises(ValueError, match="channels of a shortcut must be multiples of each other, got 16 and 32"):
        kind(8, channels=16, multipliers=(1,), depths=(1,), transformers=0)
    with pytest.raises(ValueError, match="head_width must divide the 32 channels, got 24"):
        kind(8, channels=32, multipliers=(1,), depths=(1,), transformers=1, head_width=24)


def test_masked_groups_are_zero_without_gradient_and_the_shares_are_those_asked_for():
    quantizer = Product([VQ(2, 16) for _ in range(4)])
    latents = torch.randn(4000, 1, 8, requires_grad=True)
    quantized = quantizer(latents)
    masked = PartDropout([0.2, 0.1, 0.1, 0.6])(quantized, quantizer, 0, torch.Generator().manual_seed(0))
    present = masked.latents.detach()[:, 0].unflatten(-1, (4, 2)).ne(0).any(-1)
    assert torch.equal(present, present.cummin(-1).values)  # nested
    shares = torch.bincount(present.sum(-1), minlength=5)[1:] / 4000
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.1, 0.1, 0.6]), atol=0.02, rtol=0)
    (gradient,) = torch.autograd.grad(masked.latents.square().sum(), latents)
    assert torch.equal(gradient[:, 0].unflatten(-1, (4, 2)).ne(0).any(-1), present)
    assert torch.equal(masked.ids, quantized.ids)
    assert masked.losses is quantized.losses


def test_shares_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"shares must be at least 0 and 1 together, got \[0.5, 0.6\]"):
        PartDropout([0.5, 0.6])
    quantizer = Product([VQ(2, 16), VQ(2, 16)])
    with pytest.raises(ValueError, match="a number for each of the quantizer's 2 parts, got 1"):
        PartDropout([1.0])(quantizer(torch.randn(1, 1, 4)), quantizer, 0, torch.Generator())
