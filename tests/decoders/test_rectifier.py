"""A quantized map is mended before the frozen autoencoder decodes it."""

import pytest
import torch
from recipes import composed

from imtok.commands.train import build_run
from imtok.data.order.loader import evaluation_loader
from imtok.decoders.rectifier import Rectifier
from imtok.pixels import to_float
from imtok.spaces.patches import Patches
from imtok.training.run import train

SIZE = (16, 32)


def decoder_of(**changes):
    torch.manual_seed(0)
    return Rectifier(**({"in_dim": 12, "space": Patches(2), "layers": ["residual"], "channels": 32} | changes))


def test_at_the_start_the_image_is_that_of_plain_quantization():
    image = torch.rand(2, 3, *SIZE) * 2 - 1
    for patch_size, width in ((1, 12), (2, 48)):
        decoder = decoder_of(in_dim=width, patch_size=patch_size)
        codes = decoder.space.encode(image)
        codes = codes.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)
        codes = codes.permute(0, 2, 3, 4, 5, 1).reshape(2, -1, width)
        assert torch.equal(decoder(codes, SIZE), image)
        assert decoder.loss(image, codes)["latent"].value == 0


def test_its_loss_is_the_squared_error_of_the_map_and_reaches_codes_of_another_width():
    decoder = decoder_of(in_dim=5)
    with torch.no_grad():
        decoder.conv_out.weight.normal_()
    image, latents = torch.rand(2, 3, *SIZE) * 2 - 1, torch.randn(2, 128, 5, requires_grad=True)
    loss = decoder.loss(image, latents)["latent"].value
    mended = decoder.rectified(latents, SIZE)
    assert torch.equal(loss, (mended - decoder.space.encode(image)).square().mean())
    assert torch.equal(decoder(latents, SIZE), decoder.space.decode(mended))
    loss.backward()
    assert latents.grad.abs().sum() > 0


def test_latents_that_do_not_fill_the_image_or_are_left_out_are_refused():
    decoder, latents = decoder_of(), torch.randn(1, 127, 12)
    with pytest.raises(ValueError, match=r"latents must be 128 \(8 x 16\) to fill an image of 16 x 32, got 127"):
        decoder(latents, SIZE)
    with pytest.raises(ValueError, match="every latent is needed here"):
        decoder(torch.randn(1, 128, 12), SIZE, torch.zeros(1, 128, dtype=torch.bool))
    with pytest.raises(ValueError, match="every latent is needed here"):
        decoder.loss(torch.zeros(1, 3, *SIZE), torch.randn(1, 128, 12), torch.zeros(1, 128, dtype=torch.bool))
    with pytest.raises(ValueError, match="space must be a frozen autoencoder for this decoder, got none"):
        Rectifier(12)


@pytest.mark.slow
def test_it_takes_a_fifth_off_the_error_of_plain_quantization_on_held_out_photographs(tmp_path):
    """``experiment=revq size=tiny`` to its last step."""
    run = build_run(composed("revq", "size=tiny", "trainer.accelerator=cpu", "trainer.pictures_every=0"), tmp_path)
    train(run)
    plain, mended = 0.0, 0.0
    tokenizer, decoder = run.tokenizer.eval(), run.tokenizer.decoder
    with torch.no_grad():
        for batch in evaluation_loader(run.data.validation(32), 64, 0):
            image = to_float(batch.image)
            maps, codes = tokenizer.space.maps(image), tokenizer.quantize(image).latents
            plain += (decoder.plain(codes, (32, 32)) - maps).square().mean((1, 2, 3)).sum().item()
            mended += (decoder.rectified(codes, (32, 32)) - maps).square().mean((1, 2, 3)).sum().item()
    assert mended < 0.8 * plain
