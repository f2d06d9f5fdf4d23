"""What only TokenBridge promises."""

import pytest
import torch

from imtok.quantizers.tokenbridge import TokenBridge


@pytest.mark.parametrize("bits", range(1, 13))
def test_values_increase_strictly_and_are_symmetric(bits):
    values = TokenBridge(dim=2, bits=bits).values
    assert values.shape == (2, 2**bits)
    assert (values.diff(dim=-1) > 0).all()
    assert values.abs().max() < 5
    torch.testing.assert_close(values, -values.flip(-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("bits", "clip"), [(1, 3.0), (3, 3.0), (6, 2.0), (10, 3.0)])
def test_values_are_the_means_of_intervals_of_equal_mass(bits, clip):
    quantizer = TokenBridge(dim=1, bits=bits, spread=clip, clip=clip)
    points = torch.linspace(-clip, clip, 2_000_001, dtype=torch.float64)
    mass = torch.distributions.Normal(0, 1).log_prob(points).exp()
    below = mass.cumsum(0) / mass.sum()
    if 2.0**-bits > 1 - torch.special.ndtr(torch.tensor(clip)):  # the public code's form
        below = torch.special.ndtr(points)
    interval = (below * 2**bits).long().clamp(max=2**bits - 1)
    sums = torch.zeros(2, 2**bits, dtype=torch.float64)
    sums.index_add_(1, interval, torch.stack([mass * points, mass]))
    torch.testing.assert_close(quantizer.values[0].double(), sums[0] / sums[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("bits", "deviation"), [(6, 0.0257), (8, 0.0064)])
def test_the_error_on_standard_normal_latents_is_the_published_code_s(bits, deviation):
    latents = torch.randn(1, 200_000, 1)
    error = TokenBridge(dim=1, bits=bits)(latents).latents - latents
    assert error.square().mean().sqrt().item() == pytest.approx(deviation, abs=1e-4)


def test_six_bits_carry_5_725_bits_on_standard_normal_latents():
    ids = TokenBridge(dim=1, bits=6)(torch.randn(1, 200_000, 1)).ids
    shares = torch.bincount(ids.flatten(), minlength=64).double() / ids.numel()
    assert torch.special.entr(shares).sum().item() / torch.tensor(2.0).log().item() == pytest.approx(5.725, abs=0.003)


def test_the_chosen_value_is_the_nearest():
    quantizer = TokenBridge(dim=3, bits=5)
    quantizer.fit(torch.randn(500, 3) * torch.tensor([1, 5, 0.1]) + torch.tensor([0, -3, 7]))
    latents = torch.randn(2, 400, 3, dtype=torch.float64) * 6
    ids = quantizer(latents).ids
    assert torch.equal(ids, (latents[..., None] - quantizer.values.double()).abs().argmin(-1))
    assert (quantizer(latents.float()).ids == ids).float().mean() > 0.999


def test_half_way_between_two_values_the_lower_id_is_chosen():
    quantizer = TokenBridge(dim=1, bits=2)
    quantizer.values.copy_(torch.tensor([[-3.0, -1, 1, 3]]))
    assert quantizer(torch.tensor([[[-2.0], [0], [2], [-torch.inf], [torch.inf]]])).ids.flatten().tolist() == [
        0,
        1,
        2,
        0,
        3,
    ]


def test_every_value_encodes_to_its_own_id():
    quantizer = TokenBridge(dim=2, bits=12)
    ids = torch.arange(4096)[None, :, None].expand(1, 4096, 2)
    assert torch.equal(quantizer(quantizer.decode(ids)).ids, ids)


def test_fit_makes_the_ids_blind_to_scale_and_offset():
    latents = torch.randn(4000, 4, dtype=torch.float64)
    one, other = TokenBridge(dim=4), TokenBridge(dim=4)
    scale, offset = torch.tensor([1, 4.3, 0.01, 100]), torch.tensor([0, -2, 5, 30])
    one.fit(latents)
    other.fit(latents * scale + offset)
    same = one(latents[None]).ids == other((latents * scale + offset)[None]).ids
    assert same.float().mean() > 0.998
    relative = ((other((latents * scale + offset)[None]).latents - offset) / scale - latents).square().mean(1).sqrt()
    assert (relative < 0.03).all()


@pytest.mark.parametrize("spoilt", [0.0, torch.inf, torch.nan])
def test_a_channel_that_cannot_be_fitted_is_refused(spoilt):
    latents = torch.randn(100, 3)
    latents[:, 1] *= spoilt
    quantizer = TokenBridge(dim=3)
    before = quantizer.values.clone()
    with pytest.raises(ValueError, match="latents must be finite and vary in each channel"):
        quantizer.fit(latents)
    assert torch.equal(quantizer.values, before)


def test_neighbours_are_the_nearest_values():
    quantizer = TokenBridge(dim=2, bits=4)
    ids = torch.randint(16, (1, 40, 2))
    near = quantizer.neighbours(ids, 16)
    distances = (quantizer.values[torch.arange(2)[:, None], near] - quantizer.decode(ids)[..., None]).abs()
    assert (distances.diff(dim=-1) >= 0).all()
    assert torch.equal(near.sort(-1).values, torch.arange(16).expand_as(near))


def test_the_first_slots_are_the_first_channels():
    quantizer = TokenBridge(dim=3)
    ids = quantizer(torch.randn(1, 5, 3)).ids
    assert torch.equal(quantizer.decode(ids, slots=2)[..., :2], quantizer.decode(ids)[..., :2])
    assert not quantizer.decode(ids, slots=2)[..., 2].any()


def test_fitted_values_are_part_of_the_state():
    quantizer, twin = TokenBridge(dim=4), TokenBridge(dim=4)
    quantizer.fit(torch.randn(100, 4) * 9)
    twin.load_state_dict(quantizer.state_dict())
    assert torch.equal(twin.values, quantizer.values)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"bits": 0}, "bits must be between 1 and 12, got 0"),
        ({"bits": 13}, "bits must be between 1 and 12, got 13"),
        ({"spread": 0.0}, "spread and clip must be positive, got 0.0"),
        ({"clip": -1.0}, "spread and clip must be positive, got 5.0 and -1.0"),
    ],
)
def test_settings_out_of_range_are_refused_with_their_value(wrong, message):
    with pytest.raises(ValueError, match=message):
        TokenBridge(**({"dim": 4} | wrong))
