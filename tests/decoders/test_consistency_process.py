"""Jumps from noisy maps to the data, against the formulas of latent consistency models and Stable Diffusion's noise."""

import pytest
import torch
from encoders.presets import unchecked

from imtok.decoders.consistency import Consistency
from imtok.decoders.flow import FlowDecoder

DATA, NOISE = (torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))


def oracle(process: Consistency, data=DATA):
    """A net that knows the data."""

    def predict(maps, times):
        kept = process.kept[(times * process.timesteps).round().long()].to(maps)[:, None, None, None]
        noise = (maps - kept.sqrt() * data) / (1 - kept).sqrt()
        return noise if process.predicts == "noise" else kept.sqrt() * noise - (1 - kept).sqrt() * data

    return predict


def test_noise_is_that_of_stable_diffusion():
    kept = Consistency().kept
    growth = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    assert kept[0] == 1
    torch.testing.assert_close(kept[1:], torch.cumprod(1 - growth, 0))
    assert abs(kept[1000].item() - 0.00466) < 1e-5  # its alphas_cumprod[999]
    fewer = torch.linspace(0.00085**0.5, 0.012**0.5, 100, dtype=torch.float64) ** 2
    torch.testing.assert_close(Consistency(100).kept[1:], torch.cumprod(1 - 10 * fewer, 0))
    assert (Consistency(10).kept.diff() < 0).all()
    assert (Consistency(10).kept > 0).all()


def test_all_steps_are_trained_at():
    assert Consistency(8).draw_steps(500, torch.Generator().manual_seed(0)).unique().tolist() == list(range(1, 9))


def test_at_the_data_a_jump_changes_nothing_whatever_the_net_says():
    for predicts in ("noise", "velocity"):
        jumped = Consistency(predicts=predicts).jump(lambda maps, times: maps * 1e3, DATA, torch.tensor([0, 0]))
        assert torch.equal(jumped, DATA)


@pytest.mark.parametrize("predicts", ["noise", "velocity"])
def test_a_jump_is_the_weighted_sum_of_the_paper(predicts):
    process, steps = Consistency(predicts=predicts, scale=0.05), torch.tensor([10, 700])
    maps = process.mixed(DATA, NOISE, steps)
    jumped = process.jump(oracle(process), maps, steps)
    for row, step in enumerate(steps.tolist()):
        skip, out = 0.25 / ((step / 20) ** 2 + 0.25), step / 20 / ((step / 20) ** 2 + 0.25) ** 0.5
        torch.testing.assert_close(jumped[row], skip * maps[row] + out * DATA[row], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("predicts", ["noise", "velocity"])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_net_that_knows_the_data_draws_it_in_any_number_of_steps(predicts, steps):
    process = Consistency(predicts=predicts)
    noise = torch.randn(process.draws(steps), 2, 3, 4, 4)
    asked = []

    def predict(maps, times):
        at = (times * 1000).round().long()
        fresh = noise[len(asked)] if asked else maps
        torch.testing.assert_close(maps, process.mixed(DATA, fresh, at) if asked else noise[0], rtol=0, atol=2e-2)
        asked.append(times[0].item())
        return oracle(process)(maps, times)

    torch.testing.assert_close(process.sample(predict, noise, steps), DATA, rtol=1e-2, atol=1e-2)
    assert asked == [(steps - number) / steps for number in range(steps)]


def test_a_step_back_stays_on_the_way():
    process = Consistency()
    far, near = torch.tensor([900, 20]), torch.tensor([880, 0])
    back = process.back(oracle(process), process.mixed(DATA, NOISE, far), far, near)
    torch.testing.assert_close(back, process.mixed(DATA, NOISE, near), rtol=1e-3, atol=1e-3)


def test_its_own_loss_is_that_of_what_the_net_predicts():
    for predicts in ("noise", "velocity"):
        process = Consistency(predicts=predicts)
        times = process.draw_times(2, torch.Generator().manual_seed(0))
        assert (times > 0).all()
        assert (times <= 1).all()
        (name, loss), *_ = process.losses(oracle(process), DATA, NOISE, times).items()
        assert name == predicts
        assert loss.value < 1e-4
        wrong = process.losses(lambda maps, times: 0 * maps, DATA, NOISE, times)[predicts].value
        assert 0.5 < wrong < 2


def test_more_steps_draw_from_more_noise():
    torch.manual_seed(0)
    shape = {"width": 16, "depth": 1, "heads": 2, "patch_size": 8}
    drawn = [
        FlowDecoder(6, num_latents=4, image_size=32, **shape, process=Consistency(), steps=steps) for steps in (1, 4)
    ]
    drawn[1].load_state_dict(drawn[0].state_dict())
    assert [len(decoder.noise) for decoder in drawn] == [1, 4]
    with torch.no_grad():
        latents = torch.randn(1, 4, 6)
        for decoder in drawn:
            decoder.head.weight.normal_(generator=torch.Generator().manual_seed(0))
        one, four = (decoder.eval()(latents, (32, 32)) for decoder in drawn)
        drawn[0].draw_in(4)
        again = drawn[0](latents, (32, 32))
    assert not torch.equal(one, four)
    assert torch.equal(again, four)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        drawn[0].draw_in(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"timesteps": 0}, r"timesteps and scale must be positive, got 0 and 10\.0"),
        ({"scale": 0.0}, "timesteps and scale must be positive"),
        ({"predicts": "data"}, "predicts must be one of noise, velocity, got 'data'"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        Consistency(**arguments)
    with pytest.raises(ValueError, match=r"steps must lie in \[1, 1000\], got 1001"):
        Consistency().sample(oracle(Consistency()), NOISE[None], 1001)
