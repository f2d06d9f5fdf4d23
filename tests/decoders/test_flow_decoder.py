"""The decoder that draws: what stands for missing tokens, what training draws, what sampling starts from."""

import pytest
import torch
from encoders.filled import filled, wave
from encoders.presets import SIDE, known, unchecked

from imtok.decoders.diffusion import Diffusion
from imtok.decoders.flow import FlowDecoder
from imtok.decoders.guidance import ClassifierFreeGuidance
from imtok.decoders.processes import RectifiedFlow
from imtok.nn.transformer import BlockStyle

NUMBER, DIM = 5, 4
MISSING = ("vector", "vector_per_position")


def small(**changes):
    settings = {"width": 16, "depth": 2, "heads": 2, "patch_size": 8, "steps": 2}
    decoder = FlowDecoder(DIM, NUMBER, 32, **(settings | changes)).double()
    for parameter in decoder.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.2)  # nothing behind gates and a head of zero could be seen
    return decoder


@pytest.fixture
def latents():
    return torch.randn(2, NUMBER, DIM, dtype=torch.float64)


@pytest.fixture
def image():
    return torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1


def total(losses):
    return torch.stack([value * weight for value, weight in losses.values()]).sum()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_blocks_change_nothing_and_the_prediction_is_zero_at_the_start(latents):
    decoder = FlowDecoder(DIM, NUMBER, 32, width=16, depth=2, heads=2, patch_size=8)
    tokens = torch.randn(2, 21, 16)
    assert torch.equal(decoder.trunk(tokens, condition=torch.randn(2, 16), lengths=[16, 5]), tokens)
    drawn = decoder(latents.float(), (32, 32))
    torch.testing.assert_close(drawn, decoder.noise.expand(2, -1, -1, -1))


@pytest.mark.parametrize("missing", MISSING)
def test_no_gradient_reaches_tokens_that_are_not_kept_and_nothing_of_them_the_loss(missing, latents, image):
    decoder = small(missing=missing, condition_dropout=0.0)
    keep = torch.arange(NUMBER) < torch.tensor([2, 4])[:, None]
    latents.requires_grad_()
    loss = total(decoder.loss(image, latents, keep, generator=seeded()))
    loss.backward()
    assert not latents.grad[~keep].any()
    assert latents.grad[keep].all()
    other = torch.where(keep[..., None], latents.detach(), 7.0)
    torch.testing.assert_close(total(decoder.loss(image, other, keep, generator=seeded())), loss.detach())
    vectors = [value for name, value in decoder.named_parameters() if name.startswith("missing")]
    assert all(vector.grad is not None for vector in vectors)


def test_without_any_token_flextok_has_a_vector_of_its_own_and_semanticist_the_same_ones(latents):
    """The null of guidance is what a prefix of length zero would be for one and not for the other."""
    keep, some, none = (
        torch.zeros(2, NUMBER, dtype=torch.bool),
        torch.zeros(2, dtype=torch.bool),
        torch.ones(2, dtype=torch.bool),
    )
    shared = small(missing="vector_per_position")
    torch.testing.assert_close(shared._tokens(latents, keep, some), shared._tokens(latents, None, none))
    apart = small(missing="vector")
    assert apart.missing_vector is not apart.missing_all
    first, last = apart._tokens(latents, keep, some), apart._tokens(latents, None, none)
    assert not torch.isclose(first, last).any()
    for tokens in (first, last):
        torch.testing.assert_close(tokens, tokens[:, :1].expand_as(tokens))


def test_where_a_vector_stands_in_no_position_can_be_told():
    """One vector without position for all that is missing; a vector for each position tells them apart."""
    latents = torch.randn(1, 1, DIM, dtype=torch.float64)
    none = torch.zeros(1, dtype=torch.bool)
    alike = small(missing="vector")._tokens(latents, None, none)[:, 1:]
    torch.testing.assert_close(alike, alike[:, :1].expand_as(alike))
    told = small(missing="vector_per_position")._tokens(latents, None, none)[:, 1:]
    assert not torch.isclose(told[:, 0], told[:, 1]).all()


def test_in_training_a_share_of_images_goes_without_tokens_and_in_evaluation_none(latents, image):
    for mode, rate in ((True, 1.0), (False, 1.0)):
        decoder = small(condition_dropout=rate).train(mode)
        latents = latents.detach().requires_grad_()
        total(decoder.loss(image, latents, generator=seeded())).backward()
        assert bool(latents.grad.any()) is not mode
    decoder, dropped = small(condition_dropout=0.25).train(), []
    decoder._tokens = lambda given, keep, drop: dropped.append(drop) or torch.zeros(400, NUMBER, 16).double()
    decoder.loss(image[:1].expand(400, -1, -1, -1), latents[:1].expand(400, -1, -1), generator=seeded())
    assert 70 <= dropped[0].sum() <= 130


def test_the_generator_alone_decides_what_training_draws(latents, image):
    decoder = small()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = total(decoder.loss(image, latents, generator=seeded(3)))
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(total(decoder.loss(image, latents, generator=seeded(3))), first)
    assert total(decoder.loss(image, latents, generator=seeded(4))) != first


def test_sampling_starts_from_one_noise_that_the_seed_decides(latents):
    state = torch.get_rng_state()
    same = [small(seed=7).noise for _ in range(2)]
    assert torch.equal(*same)
    assert not torch.equal(small(seed=8).noise, same[0])
    decoder = small()
    state = torch.get_rng_state()
    drawn = decoder(latents[:1].expand(2, -1, -1), (32, 32))
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(drawn[0], drawn[1])
    assert "noise" not in decoder.state_dict()


def test_a_guidance_of_scale_one_is_none_and_a_stronger_one_changes_the_image(latents):
    plain = small()
    images = []
    for scale in (1.0, 4.0):
        guided = small(guidance=ClassifierFreeGuidance(scale))
        guided.load_state_dict(plain.state_dict())
        images.append(guided(latents, (32, 32)))
    torch.testing.assert_close(images[0], plain(latents, (32, 32)))
    assert not torch.allclose(images[1], images[0])


def test_guidance_leaves_the_predicted_variance_as_it_is(latents):
    decoder = small(process=Diffusion("ancestral"), guidance=ClassifierFreeGuidance(3.0), missing="vector_per_position")
    predictions = []
    decoder.process.sample = lambda predict, noise, steps: (
        predictions.append(predict(noise[0], torch.full((2,), 0.5).double())) or noise[0]
    )
    decoder(latents, (32, 32))
    noisy = decoder.noise[:1].double().expand(2, -1, -1, -1)
    plain = decoder._predict(
        noisy, torch.full((2,), 0.5).double(), decoder._tokens(latents, None, torch.zeros(2, dtype=torch.bool))
    )
    torch.testing.assert_close(predictions[0][:, 3:], plain[:, 3:])
    assert not torch.allclose(predictions[0][:, :3], plain[:, :3])


def test_it_draws_maps_of_a_space_and_lets_the_space_make_the_image():
    space = known()["space"]
    decoder = FlowDecoder(DIM, NUMBER, SIDE, space, width=16, depth=1, heads=2, steps=1)
    drawn = decoder(torch.randn(1, NUMBER, DIM), (SIDE, SIDE))
    torch.testing.assert_close(drawn, space.decode(decoder.noise).expand_as(drawn))
    assert not [name for name, _ in decoder.named_parameters() if "space" in name]


def test_more_steps_are_taken_when_asked_for(latents):
    decoder, calls = small(steps=3, process=RectifiedFlow(solver="heun")), []
    decoder.trunk.register_forward_hook(lambda *_: calls.append(1))
    decoder(latents, (32, 32))
    assert len(calls) == 5


def test_another_size_is_drawn_where_positions_are_interpolated(latents):
    drawn = small(positions="interpolated")(latents, (32, 48))
    assert drawn.shape == (2, 3, 32, 48)
    with pytest.raises(ValueError, match=r"image size must be 32 x 32, .* got 32 x 48"):
        small()(latents, (32, 48))


def test_a_smaller_image_is_drawn_where_positions_are_cropped(latents):
    decoder = small(positions="cropped")
    assert decoder(latents, (16, 32)).shape == (2, 3, 16, 32)
    with pytest.raises(ValueError, match=r"image size must be at most 32 x 32, .* got 32 x 48"):
        decoder(latents, (32, 48))
    with (
        unchecked(),
        pytest.raises(ValueError, match="positions must be one of fixed, cropped, interpolated, got 'cut'"),
    ):
        small(positions="cut")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of torch itself
def test_compile_compiles_the_transformer_that_training_runs(latents, image):
    decoder, backend = small(), []
    plain = total(decoder.loss(image, latents, generator=seeded()))
    with unchecked():
        decoder.compile(backend=lambda graph, _: backend.append(1) or graph.forward)
        torch.testing.assert_close(total(decoder.loss(image, latents, generator=seeded())), plain)
    assert backend


def test_recomputed_activations_give_the_same_gradients(latents, image):
    decoder = small(condition_dropout=0.0).train()
    gradients = []
    for checkpoint in (False, True):
        decoder.trunk.checkpoint = checkpoint
        decoder.zero_grad()
        total(decoder.loss(image, latents, generator=seeded())).backward()
        gradients.append([value.grad.clone() for value in decoder.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_settings_out_of_range_are_refused():
    for changes, words in (
        ({"condition_dropout": 1.5}, r"condition_dropout must be in \[0, 1\], got 1.5"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=words):
            small(**changes)
    with unchecked(), pytest.raises(ValueError, match="missing must be one of vector, vector_per_position, got 'zero'"):
        small(missing="zero")


GOLDEN = {
    "flextok": (
        {"style": BlockStyle("layer_plain", 1e-5, "swiglu", 8 / 3, False, "layer_plain", "mup")},
        [-0.80976916527834, -0.83602983158088, -0.89259538911339, 0.45612905180514],
    ),
    "semanticist": (
        {
            "style": BlockStyle("layer_plain", 1e-6, "gelu_tanh"),
            "missing": "vector_per_position",
            "latent_positions": "none",
            "modulated_segments": 1,
            "time_period": 10000.0,
            "axes": "column row",
            "process": Diffusion(),
        },
        [-2.88129264441942, -0.39751298755945, -2.6853234362827, -1.13956245765275],
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_numbers_of_the_nets_that_matched_the_official_ones(name):
    settings, golden = GOLDEN[name]
    decoder = filled(small(**settings))
    keep = torch.arange(NUMBER) < torch.tensor([2, 5])[:, None]
    tokens = decoder._tokens(wave(2, NUMBER, DIM), keep, torch.zeros(2, dtype=torch.bool))
    predicted = decoder._predict(wave(2, 3, 32, 32), torch.tensor([0.25, 0.75]).double(), tokens)
    assert predicted.flatten()[[0, 500, 3500, -1]].tolist() == pytest.approx(golden, rel=1e-9)


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_prefix_is_predicted_as_if_every_missing_token_were_there(missing, count, latents):
    """One token that counts for all the missing ones is exact, with fewer tokens in the transformer."""
    decoder, lengths = small(missing=missing), []
    decoder.trunk.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    tokens = decoder._tokens(latents[:, :count], None, torch.zeros(2, dtype=torch.bool))
    noisy, times = wave(2, 3, 32, 32), torch.full((2,), 0.5).double()
    whole = decoder._predict(noisy, times, tokens)
    short = decoder._predictor(tokens, count)(noisy, times)
    torch.testing.assert_close(short, whole, rtol=1e-12, atol=1e-12)
    assert lengths == [16 + NUMBER, 16 + (min(count + 1, NUMBER) if missing == "vector" else NUMBER)]
