"""What only a product of quantizers promises."""

import pytest
import torch
import torch.nn.functional as F

from imtok.quantizers.fsq import FSQ
from imtok.quantizers.product import Product
from imtok.quantizers.residual import Residual
from imtok.quantizers.vq import VQ


def total(losses):
    return sum(value * weight for value, weight in losses.values())


@pytest.fixture
def parts():
    return [
        VQ(dim=4, codebook_size=32, entropy_weight=0.1),
        FSQ([5, 5, 3]),
        VQ(dim=2, codebook_size=16, commit_weight=0.75),
    ]


def test_each_part_sees_its_own_channels_and_no_others(parts):
    quantizer, latents = Product(parts), torch.randn(2, 10, 9)
    quantized = quantizer(latents)
    alone = [part(piece) for part, piece in zip(parts, latents.split([4, 3, 2], -1), strict=True)]
    assert torch.equal(quantized.ids, torch.cat([one.ids for one in alone], -1))
    assert torch.equal(quantized.latents, torch.cat([one.latents for one in alone], -1))
    assert quantizer.part_dims == (4, 3, 2)
    assert quantizer.vocab_sizes == (32, 75, 16)


@pytest.mark.parametrize("factor", [1.0, 1 / 3])
def test_losses_are_the_parts_losses_summed_or_averaged(parts, factor):
    quantizer, latents = Product(parts, loss_weight=factor), torch.randn(2, 10, 9)
    alone = [part(piece).losses for part, piece in zip(parts, latents.split([4, 3, 2], -1), strict=True)]
    losses = quantizer(latents).losses
    torch.testing.assert_close(total(losses), sum(total(one) for one in alone) * factor)
    together = {name for name in losses if name[-1].isalpha()}
    assert together == {"codebook", "commit", "entropy_token", "entropy_codebook"}
    for index, branch in enumerate(alone):  # in the log, without weight or gradient
        for name, loss in branch.items():
            assert losses[f"{name}_{index}"] == (loss.value, 0)
            assert not losses[f"{name}_{index}"].value.requires_grad
    value, weight = losses["commit"]  # a mean by weight: 0.25 and 0.75
    torch.testing.assert_close(value, 0.25 * alone[0]["commit"].value + 0.75 * alone[2]["commit"].value)
    assert weight == pytest.approx(factor)


def test_disentanglement_is_the_mean_squared_cosine_of_all_pairs():
    quantizer = Product([VQ(dim=4, codebook_size=32, normalize=False) for _ in range(3)], disentangle_weight=0.1)
    latents = torch.randn(2, 10, 12, requires_grad=True)
    quantized = quantizer(latents)
    one, two, three = quantized.latents.detach().split(4, -1)
    pairs = [F.normalize(a, dim=-1) * F.normalize(b, dim=-1) for a, b in ((one, two), (one, three), (two, three))]
    expected = torch.stack([pair.sum(-1) ** 2 for pair in pairs]).mean()
    value, weight = quantized.losses["disentangle"]
    torch.testing.assert_close(value, expected)
    assert weight == 0.1
    value.backward()
    assert latents.grad.abs().sum() > 0


def test_disentangling_turns_the_parts_apart():
    """A step down its gradient, taken through the codes, lowers the overlap of the latents that it moves."""
    quantizer = Product([VQ(dim=4, codebook_size=4096) for _ in range(2)], disentangle_weight=1.0)
    latents = torch.randn(1, 200, 8)
    before = quantizer(latents).losses["disentangle"].value.item()
    for _ in range(50):
        latents.requires_grad_()
        (slope,) = torch.autograd.grad(quantizer(latents).losses["disentangle"].value, latents)
        latents = latents.detach() - 20 * slope
    assert quantizer(latents).losses["disentangle"].value.item() < before / 4


def test_the_first_slots_alone_leave_later_parts_zero():
    stages = [VQ(dim=4, codebook_size=16, normalize=False) for _ in range(2)]
    quantizer = Product([Residual(stages), FSQ([5, 5])])
    quantized = quantizer(torch.randn(2, 10, 6))
    for slots in range(4):
        expected = sum((table[quantized.ids[..., i]] for i, table in enumerate(quantizer.codebook()[:slots])), 0.0)
        expected = torch.as_tensor(expected).expand(2, 10, 6)
        torch.testing.assert_close(quantizer.decode(quantized.ids, slots=slots), expected)


def test_every_code_is_decoded_to_a_vector_whose_ids_are_its_own():
    quantizer = Product([VQ(dim=4, codebook_size=32), VQ(dim=2, codebook_size=16)])
    ids = torch.cartesian_prod(torch.arange(32), torch.arange(16))[None]
    assert torch.equal(quantizer(quantizer.decode(ids)).ids, ids)


def test_neighbours_are_those_of_each_part(parts):
    quantizer = Product(parts)
    ids = quantizer(torch.randn(2, 10, 9)).ids
    near = quantizer.neighbours(ids, 3)
    for slot, part in enumerate(parts):
        assert torch.equal(near[..., slot, :], part.neighbours(ids[..., [slot]], 3)[..., 0, :])


def test_statistics_reach_their_own_part():
    one, two = (VQ(dim=2, codebook_size=8, restart_below=0.5, usage_decay=0.0) for _ in range(2))
    quantizer, latents = Product([one, two]), torch.randn(1, 3, 4)
    points = F.normalize(latents.view(1, 3, 2, 2), dim=-1)
    quantized = quantizer(latents)
    quantizer.update(quantized.stats)
    for slot, part in enumerate((one, two)):
        distances = torch.cdist(part.weight.detach(), points[0, :, slot])
        assert (distances.min(1).values < 1e-6).any()  # tokens of its own channels became codes
        assert part.restarts == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"parts": []}, "parts must be at least one"),
        ({"loss_weight": -1.0}, "must not be negative, got -1.0"),
        ({"parts": [FSQ([5]), FSQ([5, 5])], "disentangle_weight": 0.1}, r"one width to be disentangled.*\[1, 2\]"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Product(**({"parts": [FSQ([5]), FSQ([5])]} | wrong))
