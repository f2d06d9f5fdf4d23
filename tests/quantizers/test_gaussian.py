"""A KL bottleneck: its divergence, what is drawn, and how wide its encoder is."""

import copy

import pytest
import torch
from encoders.presets import unchecked
from torch.distributions import Normal, kl_divergence

from imtok.construct import construct
from imtok.encoders.patch import PatchEncoder
from imtok.errors import InputError
from imtok.options import option
from imtok.quantizers.fsq import FSQ
from imtok.quantizers.gaussian import Gaussian, means
from imtok.quantizers.multiscale import MultiScale
from imtok.quantizers.product import Product
from imtok.quantizers.residual import Residual
from imtok.quantizers.segments import Segments
from imtok.quantizers.tokenbridge import TokenBridge
from imtok.quantizers.vq import VQ
from imtok.tokenizer import Tokenizer


def moments(images=3, tokens=5, dim=4, **settings):
    """Means and log variances, and both as an encoder gives them."""
    mean, log_variance = torch.randn(2, images, tokens, dim, dtype=torch.float64, **settings)
    return mean, log_variance, torch.stack([mean, log_variance], -1).flatten(-2)


def closed_form(mean, log_variance):
    """In nats per image, by torch's own distributions."""
    divergence = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros_like(mean), 1.0))
    return divergence.sum((1, 2)).mean()


@pytest.mark.parametrize("draw", ["sample", "mode"])
@pytest.mark.parametrize("training", [True, False])
def test_the_divergence_and_its_gradient_are_the_closed_form(draw, training):
    mean, log_variance, latents = moments()
    latents.requires_grad_()
    loss = Gaussian(4, kl_weight=0.5, draw=draw).train(training)(latents).losses["kl"]
    assert loss.weight == 0.5
    torch.testing.assert_close(loss.value, closed_form(mean, log_variance), rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(loss.value, latents)
    expected = torch.stack([mean, (log_variance.exp() - 1) / 2], -1).flatten(-2) / 3
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_near_the_standard_normal_no_digits_are_lost():
    """In float32 exp(x) - 1 - x is 0 for a small x; it is x^2 / 2."""
    latents = torch.tensor([[[0.0, 1e-3]]])
    assert Gaussian(1)(latents).losses["kl"].value.item() == pytest.approx(0.25e-6, rel=1e-3)


def test_what_is_drawn_has_the_mean_and_the_deviation_that_it_was_given():
    latents = torch.tensor([3.0, -2.0, -1.0, 0.5]).expand(1, 50_000, 4)
    drawn = Gaussian(2)(latents).latents[0]
    torch.testing.assert_close(drawn.mean(0), torch.tensor([3.0, -1.0]), rtol=0, atol=0.02)
    torch.testing.assert_close(drawn.std(0).log(), torch.tensor([-1.0, 0.25]), rtol=0, atol=0.02)


def test_the_gradient_of_a_draw_is_that_of_mean_plus_deviation_times_noise():
    mean, log_variance, latents = moments()
    latents.requires_grad_()
    drawn = Gaussian(4)(latents).latents
    noise = (drawn.detach() - mean) / (log_variance / 2).exp()
    (gradient,) = torch.autograd.grad(drawn.sum(), latents)
    expected = torch.stack([torch.ones_like(mean), noise * (log_variance / 2).exp() / 2], -1).flatten(-2)
    torch.testing.assert_close(gradient, expected)


def test_a_draw_is_a_function_of_the_global_seed_and_evaluation_draws_nothing():
    mean, _, latents = moments()
    quantizer, drawn = Gaussian(4), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(quantizer(latents).latents)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    for settled in (Gaussian(4, draw="mode"), copy.deepcopy(quantizer).eval()):
        before = torch.get_rng_state()
        assert torch.equal(settled(latents).latents, mean)
        assert torch.equal(torch.get_rng_state(), before)
    assert (quantizer.stochastic, Gaussian(4, draw="mode").stochastic) == (True, False)


def test_latents_that_are_not_kept_add_nothing_and_come_out_as_zero():
    mean, log_variance, latents = moments()
    keep = torch.rand(3, 5) < 0.5
    quantized = Gaussian(4)(latents.masked_fill(~keep[..., None], torch.nan), keep)
    kept = keep[..., None]
    torch.testing.assert_close(quantized.losses["kl"].value, closed_form(mean * kept, log_variance * kept))
    assert not quantized.latents[~keep].any()
    assert quantized.encoded is not None
    assert quantized.encoded.shape[-1] == 8


@pytest.mark.parametrize("log_variance", [-1e4, 1e4])
def test_log_variances_are_cut_off_where_ldm_cuts_them_off(log_variance):
    latents = torch.tensor([[[0.0, log_variance]]])
    limit = torch.tensor(log_variance).clamp(-30, 20)
    torch.testing.assert_close(Gaussian(1)(latents).losses["kl"].value, (limit.exp() - 1 - limit) / 2)


def test_there_are_no_ids_and_decoding_names_the_command_that_gives_them():
    quantizer = Gaussian(4)
    assert quantizer(torch.zeros(2, 5, 8)).ids.shape == (2, 5, 0)
    assert (quantizer.vocab_sizes, quantizer.codebook(), quantizer.bits_per_token) == ((), [], 0)
    with pytest.raises(InputError, match="no ids to decode; give it ids first: imtok quantize tokenizer=RUN"):
        quantizer.decode(torch.zeros(1, 4, 0, dtype=torch.long))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"dim": 4, "kl_weight": -1.0}, r"kl_weight must not be negative, got -1\.0"),
        ({"dim": 4, "kl_weight": float("nan")}, "kl_weight must not be negative, got nan"),
        ({"dim": 4, "draw": "always"}, "draw must be one of sample, mode, got 'always'"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        Gaussian(**settings)


def test_the_encoder_is_built_as_wide_as_the_quantizer_asks_and_the_decoder_as_its_latents():
    net = {"patch_size": 4, "width": 8, "depth": 1}
    config = {
        "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", **net},
        "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", **net},
        "quantizer": option("quantizer", "gaussian") | {"dim": 6},
        "image_size": 16,
    }
    tokenizer = Tokenizer.from_config(config)
    assert isinstance(tokenizer.encoder, PatchEncoder)
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    assert tokenizer.encoder(image).values.shape == (2, 16, 12)
    assert tokenizer(image).quantized.latents.shape == (2, 16, 6)
    assert tokenizer(image).image.shape == image.shape


def test_every_other_preset_takes_latents_as_wide_as_its_own():
    assert construct(option("quantizer", "gaussian")).in_dim == 32
    for name in ("vq", "fsq", "continuous", "tokenbridge_6", "imagefolder_vp2", "hita"):
        quantizer = construct(option("quantizer", name))
        assert quantizer.in_dim == quantizer.dim, name


def test_a_part_of_a_product_has_its_own_moments_beside_those_of_the_others():
    mean, log_variance, latents = moments()
    codes = torch.randn(3, 5, 6, dtype=torch.float64)
    quantizer = Product([Gaussian(4, 1.0), VQ(6, 32)]).double().eval()
    assert (quantizer.in_dim, quantizer.dim, quantizer.vocab_sizes) == (14, 10, (32,))
    quantizer.start(torch.randn(64, 14, dtype=torch.float64))
    quantized = quantizer(torch.cat([latents, codes], -1))
    assert torch.equal(quantized.latents[..., :4], mean)
    torch.testing.assert_close(quantized.losses["kl"].value, closed_form(mean, log_variance))


def test_pieces_of_a_sequence_may_differ_in_width():
    _, _, latents = moments(tokens=5, dim=4)
    quantizer = Segments([Gaussian(4), Gaussian(2)], lengths=[2, 3]).eval()
    assert (quantizer.in_dim, quantizer.dim) == (8, 4)
    quantized = quantizer(latents).latents
    assert torch.equal(quantized[:, :2], means(latents)[:, :2])
    assert torch.equal(quantized[:, 2:, :2], means(latents)[:, 2:, :2])
    assert not quantized[:, 2:, 2:].any()


def test_what_quantizes_what_is_left_over_refuses_it():
    with pytest.raises(ValueError, match="stages must take latents as wide as their codes, got Gaussian"):
        Residual([FSQ([5, 5]), Gaussian(2)])
    with pytest.raises(ValueError, match="the quantizer of a scale must take latents as wide as their codes, got Gau"):
        MultiScale(Gaussian(4), sizes=[1, 2])


def test_token_bridge_quantizes_the_means_alone():
    mean, log_variance, latents = moments()
    quantizer, plain = TokenBridge(4, bits=5, reads="moments"), TokenBridge(4, bits=5)
    assert (quantizer.in_dim, quantizer.dim) == (8, 4)
    assert torch.equal(quantizer(latents).ids, plain(mean).ids)
    assert torch.equal(quantizer(latents).latents, plain(mean).latents)
    latents = latents.requires_grad_()
    (gradient,) = torch.autograd.grad(quantizer(latents).latents.sum(), latents)
    expected = torch.stack([torch.ones_like(mean), torch.zeros_like(log_variance)], -1).flatten(-2)
    assert torch.equal(gradient, expected)
    with unchecked(), pytest.raises(ValueError, match="reads must be one of latents, moments, got 'means'"):
        construct(option("quantizer", "tokenbridge_6") | {"reads": "means"})
