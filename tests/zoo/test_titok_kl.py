"""TiTok KL and TA-TiTok KL, imported from the authors' layout, compute what the authors' modules do."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from zoo.containers import compose
from zoo.titok_modules import ContinuousTiTok

from imtok.export.quantize import with_ids
from imtok.options import option
from imtok.types import Condition
from imtok.zoo.importing import import_checkpoint
from imtok.zoo.registry import find_source

TEXTS = {"titok": None, "ta_titok": (77, 768)}


@pytest.mark.parametrize("name", TEXTS)
def test_an_import_equals_the_official_modules_with_random_weights(name, tmp_path):
    official = ContinuousTiTok(TEXTS[name]).eval()
    torch.save(official.state_dict(), tmp_path / "model.bin")
    imported = import_checkpoint(find_source("titok"), tmp_path / "model.bin", compose).tokenizer
    assert sum(map(torch.numel, imported.parameters())) - (768 if TEXTS[name] else 0) == sum(
        map(torch.numel, official.parameters())
    )
    official, ours = official.double(), imported.double()
    image = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    text = torch.randn(3, *TEXTS[name], dtype=torch.float64) if TEXTS[name] else None
    told = None if text is None else Condition(text=text)
    with torch.no_grad():
        mean, log_variance = official.moments(image)
        found = ours(image * 2 - 1, condition=told)
        moments = ours.encoder(image * 2 - 1).values
        expected = official.decoder(mean, text) * 2 - 1
    torch.testing.assert_close(moments[..., 0::2], mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(moments[..., 1::2], log_variance, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.quantized.latents, mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.image, expected, rtol=1e-10, atol=1e-10)
    divergence = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum((1, 2)).mean()
    torch.testing.assert_close(found.quantized.losses["kl"].value, divergence, rtol=1e-10, atol=1e-10)
    assert found.quantized.losses["kl"].weight == 1e-6

    bridged = with_ids(imported, option("quantizer", "tokenbridge_6") | {"dim": 5})
    tokens = bridged.double().encode(image * 2 - 1, condition=told)
    assert tokens.ids.shape == (3, 6, 5)
    assert bridged.decode(tokens, condition=told).shape == image.shape
