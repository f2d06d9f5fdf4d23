"""Nested dropout orders tokens by what they explain: on a Gaussian the optimum is known (PCA; arXiv 1402.0915)."""

import torch

from imtok.regularizers.prefix import NestedDropout
from imtok.types import Quantized

CHANNELS, TOKENS, STEPS = 8, 4, 600
VARIANCES = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.12, 0.06], dtype=torch.float64)


def gaussian(images=512):
    """Rows whose sample covariance has exactly these variances, along axes that are not those of the channels."""
    white = torch.linalg.qr(torch.randn(images, CHANNELS, dtype=torch.float64))[0] * images**0.5
    axes = torch.linalg.qr(torch.randn(CHANNELS, CHANNELS, dtype=torch.float64))[0]
    return white * VARIANCES.sqrt() @ axes, axes


def train(rows, dropout):
    """A linear autoencoder whose tokens are single numbers, at the optimum of its training loss."""
    encoder = torch.nn.Linear(CHANNELS, TOKENS, bias=False).double()
    decoder = torch.nn.Linear(TOKENS, CHANNELS, bias=False).double()
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    generator = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        latents = encoder(rows)[..., None]
        whole = Quantized(latents, torch.zeros(*latents.shape[:2], 0, dtype=torch.int64))
        kept = dropout(whole, None, step, generator) if dropout else whole
        image = kept.latents[..., 0] @ decoder.weight[:, : kept.latents.shape[1]].T
        optimizer.zero_grad()
        (image - rows).square().sum(1).mean().backward()
        optimizer.step()
        schedule.step()
    return encoder.weight.detach(), decoder.weight.detach()


def errors(rows, encoder, decoder):
    """Mean squared error of the first k tokens, k = 1, 2, ..."""
    images = [rows @ encoder[:k].T @ decoder[:, :k].T for k in range(1, TOKENS + 1)]
    return torch.stack([(image - rows).square().sum(1).mean() for image in images])


BEST = VARIANCES.sum() - VARIANCES.cumsum(0)[:TOKENS]  # what PCA leaves


def test_with_nested_dropout_every_prefix_is_the_best_of_its_length(monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # many small calls
    rows, axes = gaussian()
    encoder, decoder = train(rows, NestedDropout())
    reached = errors(rows, encoder, decoder)
    assert (reached.diff() < 0).all()
    torch.testing.assert_close(reached, BEST, rtol=0.03, atol=0)
    for k in range(1, TOKENS + 1):  # the first k tokens span the first k principal axes
        span = torch.linalg.qr(decoder[:, :k])[0]
        assert torch.linalg.svdvals(axes[:k] @ span).min() > 0.98


def test_without_it_the_whole_is_the_best_but_no_prefix_is(monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    rows, axes = gaussian()
    encoder, decoder = train(rows, None)
    reached = errors(rows, encoder, decoder)
    torch.testing.assert_close(reached[-1], BEST[-1], rtol=0.03, atol=0)
    assert (reached[:-1] > 1.2 * BEST[:-1]).all()
    span = torch.linalg.qr(decoder[:, :1])[0]
    assert torch.linalg.svdvals(axes[:1] @ span).min() < 0.95
