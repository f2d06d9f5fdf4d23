"""Codes chosen by attention, against the formula of CODA written out."""

import pytest
import torch
import torch.nn.functional as F
from encoders.presets import unchecked

from imtok.quantizers.attention_vq import AttentionVQ
from imtok.quantizers.multiscale import MultiScale


def built(**changes) -> AttentionVQ:
    torch.manual_seed(0)
    made = AttentionVQ(**({"dim": 4, "codebook_size": 32, "attention_dim": 6} | changes)).double()
    with torch.no_grad():
        made.norm_query.weight.uniform_(0.5, 2)
        made.norm_key.weight.uniform_(0.5, 2)
    return made


def written_out(quantizer: AttentionVQ, latents):
    """Scores and values with a whole matrix of tokens and codes."""

    def mapped(vectors, linear, norm):
        vectors = linear(vectors)
        return vectors / (vectors.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight

    queries = mapped(latents, quantizer.to_query, quantizer.norm_query)
    keys = mapped(quantizer.weight.double(), quantizer.to_key, quantizer.norm_key)
    return queries @ keys.T / 6**0.5, quantizer.to_value(quantizer.weight.double())


def test_ids_codes_losses_and_gradients_are_those_of_the_formula():
    quantizer, latents = built(), torch.randn(2, 9, 4, dtype=torch.float64, requires_grad=True)
    found = quantizer(latents)
    scores, values = written_out(quantizer, latents)
    soft = scores.softmax(-1)
    hard = F.one_hot(scores.argmax(-1), 32).double()
    assert torch.equal(found.ids[..., 0], scores.argmax(-1))
    codes = (hard - soft.detach() + soft) @ values.detach() + (hard @ values - hard @ values.detach())
    torch.testing.assert_close(found.latents, codes)
    terms = {
        "commit_soft": (codes - latents).square().mean(),
        "commit": ((hard @ values).detach() - latents).square().mean(),
        "codebook": (hard @ values - latents.detach()).square().mean(),
    }
    for name, value in terms.items():
        torch.testing.assert_close(found.losses[name].value, value)
    sharp = (scores / 0.01).softmax(-1)
    mean = sharp.flatten(0, 1).mean(0)
    torch.testing.assert_close(found.losses["entropy_codebook"].value, -(mean * mean.clamp_min(1e-30).log()).sum())
    weights = torch.randn_like(codes)
    inputs = [latents, quantizer.weight, quantizer.to_query.weight, quantizer.to_key.weight, quantizer.to_value.weight]
    ours = torch.autograd.grad((found.latents * weights).sum(), inputs)
    soft_values = (hard - soft.detach() + soft) @ values.detach() + hard.detach() @ values - hard @ values.detach()
    theirs = torch.autograd.grad((soft_values * weights).sum(), inputs)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_scales_with_gradients_through_codes_are_those_of_the_published_loop():
    inner = built(entropy_weight=0.0)
    quantizer = MultiScale(inner, [1, 2, 4], convolutions=0, codebook_weight=0.0, commit_weight=0.0, gradients="codes")
    latents = torch.randn(2, 16, 4, dtype=torch.float64)
    found = quantizer(latents)
    target = latents.transpose(1, 2).unflatten(-1, (4, 4))
    rest, total, losses = target, torch.zeros_like(target), []
    for size in (1, 2, 4):
        small = F.interpolate(rest, size=(size, size), mode="area")
        own = inner.quantize(small.flatten(2).transpose(1, 2), None)
        codes = own.latents.transpose(1, 2).unflatten(-1, (size, size))
        losses.append(torch.stack([value * weight for value, weight in own.losses.values()]).sum())
        grown = F.interpolate(codes, size=(4, 4), mode="bicubic")
        total, rest = total + grown, rest - grown
    torch.testing.assert_close(found.latents, total.flatten(2).transpose(1, 2))
    ours = torch.stack([value * weight for value, weight in found.losses.values()]).sum()
    torch.testing.assert_close(ours, torch.stack(losses).mean())
    image = torch.randn_like(found.latents)
    grads = [
        torch.autograd.grad((each * image).sum() + 0.1 * loss, inner.to_key.weight, retain_graph=True)[0]
        for each, loss in ((found.latents, ours), (total.flatten(2).transpose(1, 2), torch.stack(losses).mean()))
    ]
    torch.testing.assert_close(*grads)
    assert grads[0].abs().sum() > 0


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="attention_dim must be at least 1, got 0"):
        AttentionVQ(4, 8, attention_dim=0)
    with unchecked(), pytest.raises(ValueError, match="one of straight_through, scales, codes, got 'all'"):
        MultiScale(built(), [1, 2], convolutions=0, gradients="all")
