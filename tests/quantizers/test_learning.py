"""Every preset learns: 200 steps on a mixture of Gaussians lower its distortion and leave its codes in use."""

import jaxtyping
import pytest
import torch
from encoders.presets import slow_but_one_of_each_class
from quantizers.contract import NAMES, config, length, smaller

from imtok.construct import construct
from imtok.quantizers.base import Quantizer

STEPS = 200
VECTORS, WIDTH, CLUSTERS = 2000, 16, 64
COLLAPSING = {"ema_vq_ait"}  # published without restarts and without a k-means start: nothing revives its codes


def mixture(images: int, tokens: int) -> torch.Tensor:
    centres = torch.randn(CLUSTERS, WIDTH)
    return centres[torch.randint(CLUSTERS, (images, tokens))] + 0.2 * torch.randn(images, tokens, WIDTH)


def usage(quantizer: Quantizer, ids: torch.Tensor) -> float:
    """Share of the codes that occur, mean over tables; of an eighth as many codes as tokens, if there are more.

    Slots that share a table use it together: the fine depths of a residual need only its small codes.
    """
    slots: dict[bytes, list[torch.Tensor]] = {}
    for slot, table in enumerate(quantizer.codebook()):
        slots.setdefault(table.numpy().tobytes(), []).append(ids[..., slot])
    most = ids[..., 0].numel() // 8
    sizes = {table.numpy().tobytes(): len(table) for table in quantizer.codebook()}
    shares = [torch.stack(used).unique().numel() / min(sizes[key], most) for key, used in slots.items()]
    return sum(min(share, 1.0) for share in shares) / len(shares)


def learn(quantizer: Quantizer) -> tuple[float, float, float]:
    """Distortion before and after training between two linear maps, and usage after it."""
    vectors = mixture(VECTORS // length(quantizer), length(quantizer))
    encoder, decoder = torch.nn.Linear(WIDTH, quantizer.in_dim), torch.nn.Linear(quantizer.dim, WIDTH)
    parts = torch.nn.ModuleList([encoder, quantizer, decoder])
    optimizer = torch.optim.Adam(parts.parameters(), lr=3e-3)

    @torch.no_grad()
    def distortion() -> float:
        parts.eval()
        return (decoder(quantizer(encoder(vectors)).latents) - vectors).square().mean().item()

    with torch.no_grad():
        quantizer.start(encoder(vectors).flatten(0, 1))
    before = distortion()
    for _ in range(STEPS):
        parts.train()
        batch = vectors[torch.randperm(len(vectors))[: len(vectors) // 8]]
        quantized = quantizer(encoder(batch))
        loss = (decoder(quantized.latents) - batch).square().mean()
        optimizer.zero_grad()
        (loss + sum(value * weight for value, weight in quantized.losses.values())).backward()
        optimizer.step()
        quantizer.update(quantized.stats)
    return before, distortion(), usage(quantizer, quantizer(encoder(vectors)).ids)


@pytest.fixture(autouse=True)
def _without_shape_checks(monkeypatch):
    """The checks around every function cost more than the small tensors here."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize("name", slow_but_one_of_each_class("quantizer", NAMES))
def test_a_preset_learns_and_keeps_its_codes_in_use(name):
    before, after, used = learn(construct(smaller(config(name))))
    assert after < 0.8 * before
    assert used > 0.5 or name in COLLAPSING
