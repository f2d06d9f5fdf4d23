"""What only a multi-scale residual promises."""

import pytest
import torch
import torch.nn.functional as F

from imtok.quantizers.bsq import BSQ
from imtok.quantizers.fsq import FSQ
from imtok.quantizers.multiscale import MultiScale, convolution_of
from imtok.quantizers.product import Product
from imtok.quantizers.shared_vq import SharedVQ
from imtok.quantizers.vq import VQ

SIZES = [1, 2, 3, 4]
WITHOUT = {"convolutions": 0, "codebook_weight": 0.0, "commit_weight": 0.0}


def multi_scale(**changes):
    table = VQ(dim=4, codebook_size=64, normalize=False, codebook_weight=0.0, commit_weight=0.0)
    torch.nn.init.normal_(table.weight, std=0.5)
    return MultiScale(**({"quantizer": table, "sizes": SIZES} | changes))


@pytest.mark.parametrize(
    ("sizes", "tokens"),
    [
        ([1, 2, 3, 4, 5, 6, 8, 10, 13, 16], 680),  # VAR
        ([1, 1, 2, 3, 3, 4, 5, 6, 8, 11], 286),  # ImageFolder, MSVR10P2
        ([1, 2, 4, 6, 8, 10, 12, 14], 561),  # TokenFlow
    ],
)
def test_published_scales_have_the_published_number_of_tokens(sizes, tokens):
    assert multi_scale(sizes=sizes).num_tokens(sizes[-1] ** 2) == tokens


def test_scales_share_convolutions_as_in_var():
    assert [convolution_of(scale, 10, 4) for scale in range(10)] == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert [convolution_of(scale, 8, 4) for scale in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [convolution_of(scale, 10, 1) for scale in range(10)] == [0] * 10
    assert [convolution_of(scale, 4, 2) for scale in range(4)] == [0, 0, 1, 1]


@pytest.mark.parametrize("convolutions", [0, 4])
def test_it_is_the_recursion_of_the_paper_with_its_losses(convolutions):
    quantizer = multi_scale(convolutions=convolutions).double()
    latents = torch.randn(2, 16, 4, dtype=torch.float64, requires_grad=True)
    quantized = quantizer(latents)
    target = latents.transpose(1, 2).unflatten(2, (4, 4))
    table, ids = quantizer.quantizer.weight, quantized.ids[..., 0].split([1, 4, 9, 16], 1)
    rest, total, codebook, commit = target.detach(), 0.0, 0.0, 0.0
    for scale, size in enumerate(SIZES):
        pooled = F.adaptive_avg_pool2d(rest, size).flatten(2).transpose(1, 2)
        assert torch.equal(ids[scale], (pooled[:, :, None] - table).square().sum(-1).argmin(-1))
        codes = table[ids[scale]].transpose(1, 2).unflatten(2, (size, size))
        codes = F.interpolate(codes, (4, 4), mode="bicubic") if size < 4 else codes
        codes = codes * 0.5 + quantizer.convolutions[scale](codes) * 0.5 if convolutions else codes
        total, rest = total + codes, rest - codes.detach()
        codebook = codebook + (total - target.detach()).square().mean() / 4
        commit = commit + (total.detach() - target).square().mean() / 4
    torch.testing.assert_close(quantized.latents, total.flatten(2).transpose(1, 2))
    for name, expected, weight in (("codebook", codebook, 1.0), ("commit", commit, 0.25)):
        value = quantized.losses[name].value
        torch.testing.assert_close(value, expected)
        assert quantized.losses[name].weight == pytest.approx(weight)
        wanted = [latents, *quantizer.parameters()]
        ours = torch.autograd.grad(value, wanted, retain_graph=True, allow_unused=True, materialize_grads=True)
        theirs = torch.autograd.grad(expected, wanted, retain_graph=True, allow_unused=True, materialize_grads=True)
        torch.testing.assert_close(ours, theirs)


def test_the_gradient_passes_straight_through():
    latents, direction = torch.randn(2, 16, 4, requires_grad=True), torch.randn(2, 16, 4)
    (multi_scale()(latents).latents * direction).sum().backward()
    assert torch.equal(latents.grad, direction)


def test_each_scale_passes_its_gradient_through_the_inner_quantizer():
    """What TokenFlow's code does: latents of unit length at each scale, and an estimator for each."""
    quantizer = multi_scale(quantizer=SharedVQ([2, 2], 64), gradients="scales", **WITHOUT).double()
    latents, direction = torch.randn(2, 2, 16, 4, dtype=torch.float64)
    latents.requires_grad_()
    quantized = quantizer(latents)
    target = latents.transpose(1, 2).unflatten(2, (4, 4))
    total, ids = torch.zeros_like(target), quantized.ids.split([1, 4, 9, 16], 1)
    for own, size in zip(ids, SIZES, strict=True):
        rest = F.adaptive_avg_pool2d(target - total.detach(), size)
        unit = torch.cat([F.normalize(part, dim=1) for part in rest.split([2, 2], 1)], 1)
        codes = quantizer.quantizer.decode(own).detach().transpose(1, 2).unflatten(2, (size, size))
        total = total + F.interpolate(unit + (codes - unit).detach(), (4, 4), mode="bicubic")
    expected = total.flatten(2).transpose(1, 2)
    torch.testing.assert_close(quantized.latents, expected)
    ours, theirs = (torch.autograd.grad((one * direction).sum(), latents)[0] for one in (quantized.latents, expected))
    torch.testing.assert_close(ours, theirs)


def test_losses_move_only_their_own_side():
    quantizer, latents = multi_scale(), torch.randn(2, 16, 4, requires_grad=True)
    losses = quantizer(latents).losses
    assert torch.autograd.grad(losses["codebook"].value, latents, retain_graph=True, allow_unused=True) == (None,)
    for parameter in quantizer.parameters():
        commit = torch.autograd.grad(losses["commit"].value, parameter, retain_graph=True, allow_unused=True)
        assert commit == (None,)


def test_a_constant_map_needs_only_the_first_scale():
    """With codes that know zero and no convolutions, all later scales choose it."""
    quantizer = multi_scale(convolutions=0)
    quantizer.quantizer.weight.data[5] = 0
    latents = quantizer.quantizer.weight[9].detach().expand(1, 16, 4)
    ids = quantizer(latents).ids[0, :, 0]
    assert ids.tolist() == [9] + [5] * 29
    torch.testing.assert_close(quantizer.decode(ids[None, :1, None]), latents)


def test_the_first_scales_decode_alone_ever_finer():
    quantizer = multi_scale(convolutions=0)
    quantizer.quantizer.weight.data[5] = 0
    latents = F.interpolate(torch.randn(20, 4, 2, 2), (4, 4), mode="bicubic").flatten(2).transpose(1, 2)
    quantized = quantizer(latents)
    ends = [1, 5, 14, 30]
    errors = [(quantizer.decode(quantized.ids[:, :end]) - latents).square().mean() for end in ends]
    assert errors[3] < errors[1] < errors[0] < latents.square().mean()
    assert torch.equal(quantizer.decode(quantized.ids), quantized.latents)
    with pytest.raises(ValueError, match="whole scales"):
        quantizer.decode(quantized.ids[:, :6])


def test_terms_of_the_inner_quantizer_are_averaged_over_scales():
    inner = VQ(dim=4, codebook_size=16, codebook_weight=0.0, commit_weight=0.0, entropy_weight=0.1, temperature=1.0)
    quantizer, latents = MultiScale(inner, SIZES, convolutions=0), torch.randn(2, 16, 4)
    ids = quantizer(latents).ids
    rest, entropies, end = latents, [], 0
    for size in SIZES:
        pooled = F.adaptive_avg_pool2d(rest.transpose(1, 2).unflatten(2, (4, 4)), size).flatten(2).transpose(1, 2)
        entropies.append(inner(pooled).losses["entropy_token"].value)
        end += size**2
        rest = latents - quantizer.decode(ids[:, :end])
    value, weight = quantizer(latents).losses["entropy_token"]
    torch.testing.assert_close(value, torch.stack(entropies).mean())
    assert weight == pytest.approx(0.1)


def test_half_precision_weights_around_it_do_not_change_a_bit_of_decode():
    quantizer, latents = multi_scale().eval(), torch.randn(2, 16, 4)
    quantized = quantizer(latents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantizer.decode(quantized.ids), quantized.latents)
        assert torch.equal(quantizer(latents).latents, quantized.latents)


def test_start_fits_the_codes_to_all_scales():
    table = VQ(dim=4, codebook_size=64, normalize=False, kmeans_start=True)
    quantizer = MultiScale(table, SIZES, convolutions=0)
    latents = torch.randn(100 * 16, 4) * 3 + 1
    before = (quantizer(latents.view(100, 16, 4)).latents - latents.view(100, 16, 4)).square().mean()
    quantizer.start(latents)
    quantized = quantizer(latents.view(100, 16, 4))
    assert (quantized.latents - latents.view(100, 16, 4)).square().mean() < before / 3
    assert quantized.ids.unique().numel() > 56


def test_branches_of_a_product_stand_side_by_side():
    quantizer = Product([multi_scale(), multi_scale(quantizer=FSQ([5, 5]), convolutions=0)])
    assert (quantizer.num_latents, quantizer.num_tokens(16)) == (16, 30)
    quantized = quantizer(torch.randn(2, 16, 6))
    assert quantized.ids.shape == (2, 30, 2)
    assert torch.equal(quantizer.decode(quantized.ids), quantized.latents)
    with pytest.raises(ValueError, match="same number of tokens"):
        Product([multi_scale(), FSQ([5])])
    with pytest.raises(ValueError, match="same number of tokens"):
        Product([multi_scale(), multi_scale(sizes=[1, 3], convolutions=0)])


def test_latents_that_do_not_fill_the_map_and_masks_are_refused():
    with pytest.raises(ValueError, match=r"latents must be 16 \(4 x 4\).*got 12"):
        multi_scale()(torch.randn(2, 12, 4))
    with pytest.raises(ValueError, match="every latent is needed for scales"):
        multi_scale()(torch.randn(2, 16, 4), torch.ones(2, 16, dtype=torch.bool))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sizes": []}, "sizes must be"),
        ({"sizes": [0, 4]}, "sizes must be"),
        ({"sizes": [2, 1]}, r"does not decrease, got \[2, 1\]"),
        ({"mix": 0.0}, r"mix be in \(0, 1\], got 4 and 0.0"),
        ({"convolutions": -1}, "must not be negative"),
        ({"sizes": [1, 2, 4]}, "convolutions must be at most 3, so that 3 scales use all, got 4"),
        ({"commit_weight": -1.0}, "loss weights must not be negative"),
        ({"gradients": "scales"}, "codebook_weight and commit_weight must be 0 .* got 1.0 and 0.25"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        multi_scale(**wrong)


def test_a_scale_cannot_be_multi_scale_itself():
    with pytest.raises(ValueError, match="must take any number of latents"):
        multi_scale(quantizer=multi_scale())


def test_what_a_scale_leaves_over_is_detached_so_that_inner_losses_move_only_the_latents():
    quantizer = MultiScale(BSQ([4]), sizes=[1, 2, 4], convolutions=3)
    latents = torch.randn(2, 16, 4, requires_grad=True)
    inner = quantizer(latents).losses["entropy_token"].value
    wanted = [latents, *quantizer.convolutions.parameters()]
    to_latents, *to_convolutions = torch.autograd.grad(inner, wanted, allow_unused=True)
    assert to_latents.abs().sum() > 0
    assert all(gradient is None for gradient in to_convolutions)


def test_entropies_of_what_scales_leave_over_are_those_of_xqgan_and_their_gradient():
    """Of the map at full size, as long as it is, bit by bit: p = sigmoid(-4 x / sqrt(C)) of what is not decoded yet."""
    inner = BSQ([6], commit_weight=0.0, entropy_weight=0.0)
    quantizer = MultiScale(inner, SIZES, convolutions=2, normalize=True, entropy_weight=0.3).double()
    latents = torch.randn(3, 16, 6, dtype=torch.float64, requires_grad=True)
    quantized = quantizer(latents)
    ids, losses = quantized.ids, quantized.losses
    unit = F.normalize(latents, dim=-1)
    per_token, of_mean, end = [], [], 0
    for size in [0, *SIZES[:-1]]:
        end += size**2
        left = unit - (quantizer.decode(ids[:, :end]).detach() if end else 0)
        chance = torch.sigmoid(-4 * left / 6**0.5)
        per_token.append(binary_entropy(chance).sum(-1).mean())
        of_mean.append(binary_entropy(chance.flatten(0, 1).mean(0)).sum())
    expected = torch.stack(per_token).mean(), torch.stack(of_mean).mean()
    for name, value, weight in zip(("entropy_token", "entropy_codebook"), expected, (0.3, -0.3), strict=True):
        torch.testing.assert_close(losses[name].value, value)
        assert losses[name].weight == pytest.approx(weight)
    found, wanted = (
        torch.autograd.grad(one - other, latents, retain_graph=True)[0]
        for one, other in ((losses["entropy_token"].value, losses["entropy_codebook"].value), expected)
    )
    assert wanted.abs().max() > 1e-4
    torch.testing.assert_close(found, wanted)
    assert "entropy_token" not in quantizer.eval()(latents).losses


def binary_entropy(chance):
    return -(chance * chance.log() + (1 - chance) * (1 - chance).log())


def test_terms_of_the_inner_quantizer_keep_names_of_their_own():
    quantizer, latents = MultiScale(VQ(dim=4, codebook_size=16), SIZES), torch.randn(2, 16, 4)
    losses = quantizer(latents).losses
    assert losses.keys() == {"codebook", "commit", "inner_codebook", "inner_commit"}
    plain = MultiScale(VQ(dim=4, codebook_size=16, codebook_weight=0.0, commit_weight=0.0), SIZES)
    plain.load_state_dict(quantizer.state_dict())
    alone = plain(latents).losses
    torch.testing.assert_close(losses["commit"].value, alone["commit"].value)


def test_entropies_need_bits():
    with pytest.raises(ValueError, match="without bits, got VQ"):
        MultiScale(VQ(dim=4, codebook_size=16), SIZES, entropy_weight=0.1)
