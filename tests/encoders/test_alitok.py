"""AliTok's order of sight, its prefix, and what the prefix learns."""

import pytest
import torch

from imtok.decoders.alitok import AliTokDecoder
from imtok.encoders.alitok import AliTokEncoder
from imtok.losses.pixel import L2Loss
from imtok.objectives.alitok import AliTokObjective
from imtok.quantizers.vq import VQ
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

SMALL = {"patch_size": 8, "width": 32, "depth": 2, "heads": 2, "start": "xavier"}


def decoder(order):
    return AliTokDecoder(4, 32, 21, order=order, class_tokens=2, **SMALL).double()


def patches(image):
    return image.unfold(2, 8, 8).unfold(3, 8, 8).flatten(2, 3).transpose(1, 2).flatten(2)[0]


@pytest.mark.parametrize("order", ["causal", "full"])
def test_a_causal_patch_depends_on_no_later_latent(order):
    part, latents = decoder(order), torch.randn(1, 21, 4, dtype=torch.float64)
    changed = latents.clone()
    changed[:, 5 + 6] += 1  # the latent of the seventh patch
    differs = (patches(part(latents, (32, 32))) - patches(part(changed, (32, 32)))).abs().amax(-1) > 1e-12
    assert differs.tolist() == [order == "full" or place >= 6 for place in range(16)]


def test_pixels_lie_in_their_range():
    part = decoder("full")
    torch.nn.init.normal_(part.patches.conv_out.weight, std=100.0)
    image = part(torch.randn(1, 21, 4, dtype=torch.float64), (32, 32))
    assert image.abs().max() <= 1


def tokenizer(prefix=5, order="causal"):
    encoder = AliTokEncoder(4, 32, prefix=prefix, **SMALL)
    return Tokenizer(encoder, VQ(4, 16), AliTokDecoder(4, 32, 16 + prefix, order=order, class_tokens=1, **SMALL), None)


def losses(of):
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    batch = Batch(image, torch.full((2,), -1), torch.arange(2), ["a", "b"])
    objective = AliTokObjective({"l2": L2Loss()}, prefix_weight=2.0)
    return objective(of.train(), batch, 0, torch.Generator().manual_seed(0)), image


def test_the_prefix_learns_the_first_patch_and_the_first_row():
    of, written = tokenizer(), []
    of.decoder.prefix.register_forward_hook(lambda _, __, image: written.append(image))
    found, image = losses(of)
    unit = image / 255
    wanted = torch.cat([unit[..., :8, :8], unit[..., :8, :]], -1)
    expected = ((written[0] + 1) / 2 - wanted).square().mean()
    torch.testing.assert_close(found.terms["prefix"].value, expected)
    torch.testing.assert_close(found.total, sum(value * weight for value, weight in found.terms.values()))
    found.total.backward()
    assert all(parameter.grad.any() for parameter in of.decoder.prefix.parameters())


@pytest.mark.parametrize("of", [{"prefix": 3}, {"order": "full"}])
def test_a_decoder_without_such_a_prefix_is_refused(of):
    with pytest.raises(ValueError, match=r"the decoder must write patches for a prefix of one patch and a row"):
        losses(tokenizer(**of))


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="prefix must not be negative, got -1"):
        AliTokEncoder(4, 32, prefix=-1, **SMALL)
    with pytest.raises(ValueError, match="latents must be at least the 16 patches, got 15"):
        AliTokDecoder(4, 32, 15, **SMALL)
