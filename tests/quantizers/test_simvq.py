"""What only SimVQ promises."""

import pytest
import torch

from imtok.quantizers.simvq import SimVQ


def test_codes_are_the_projected_basis_and_the_nearest_of_them_is_chosen():
    quantizer = SimVQ(dim=8, codebook_size=500).double()
    latents = torch.randn(2, 100, 8, dtype=torch.float64)
    quantized = quantizer(latents)
    table = quantizer.basis @ quantizer.projection.weight.T + quantizer.projection.bias
    assert torch.equal(quantized.ids[..., 0], torch.cdist(latents.flatten(0, 1), table).argmin(-1).view(2, 100))
    torch.testing.assert_close(quantized.latents, table[quantized.ids[..., 0]].detach())


def test_gradients_equal_those_through_the_whole_table():
    quantizer = SimVQ(dim=8, codebook_size=50).double()
    latents = torch.randn(2, 10, 8, dtype=torch.float64)
    quantized = quantizer(latents)
    table = quantizer.basis @ quantizer.projection.weight.T + quantizer.projection.bias
    naive = (table[quantized.ids[..., 0]] - latents).square().mean()
    torch.testing.assert_close(quantized.losses["codebook"].value, naive)
    parameters = list(quantizer.parameters())
    ours = torch.autograd.grad(quantized.losses["codebook"].value, parameters)
    for mine, theirs in zip(ours, torch.autograd.grad(naive, parameters), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_step_on_few_tokens_moves_all_codes_but_not_the_basis():
    quantizer = SimVQ(dim=8, codebook_size=50)
    before, basis = quantizer.codebook()[0].clone(), quantizer.basis.clone()
    quantizer(torch.randn(1, 2, 8)).losses["codebook"].value.backward()
    torch.optim.SGD(quantizer.parameters(), lr=1.0).step()
    assert ((quantizer.codebook()[0] - before).abs().amax(-1) > 0).all()
    assert torch.equal(quantizer.basis, basis)
    assert "basis" in quantizer.state_dict()


def test_the_basis_has_variance_one_over_width():
    basis = SimVQ(dim=64, codebook_size=4096).basis
    assert basis.norm(dim=-1).mean() == pytest.approx(1, abs=0.02)


def test_losses_move_only_their_side():
    quantizer, latents = SimVQ(dim=4, codebook_size=16), torch.randn(1, 5, 4, requires_grad=True)
    losses = quantizer(latents).losses
    assert (losses["codebook"].weight, losses["commit"].weight) == (1.0, 0.25)
    assert torch.autograd.grad(losses["codebook"].value, latents, allow_unused=True) == (None,)
    assert set(torch.autograd.grad(losses["commit"].value, list(quantizer.parameters()), allow_unused=True)) == {None}


def test_look_ups_under_autocast_give_the_codes_of_training():
    quantizer, latents = SimVQ(dim=8, codebook_size=64), torch.randn(2, 16, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quantized = quantizer(latents)
        assert torch.equal(quantizer.decode(quantized.ids), quantized.latents)


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"codebook_size": 0}, {"commit_weight": -1.0}])
def test_settings_out_of_range_are_refused_with_their_value(wrong):
    with pytest.raises(ValueError, match=r"must (be|not be) .*got.*" + str(next(iter(wrong.values())))):
        SimVQ(**({"dim": 4, "codebook_size": 8} | wrong))
