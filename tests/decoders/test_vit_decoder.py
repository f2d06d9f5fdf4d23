"""Which pixels a latent of a ViT decoder writes."""

import torch

from imtok.decoders.vit import ViTDecoder


def test_without_blocks_a_latent_writes_its_own_patch_only():
    decoder = ViTDecoder(in_dim=4, image_size=32, patch_size=8, width=16, depth=0, heads=2, hidden=32)
    latents = torch.randn(1, 16, 4)
    changed = latents.clone()
    changed[0, 6] += 1
    difference = (decoder(changed, (32, 32)) - decoder(latents, (32, 32))).abs().sum(1)[0]
    written = torch.zeros(32, 32, dtype=torch.bool)
    written[8:16, 16:24] = True
    assert torch.equal(difference > 1e-6, written)


def test_a_patch_is_written_channel_by_channel_row_by_row():
    decoder = ViTDecoder(in_dim=4, image_size=4, patch_size=2, width=16, depth=0, heads=2, hidden=32)
    with torch.no_grad():
        decoder.pixels.weight.zero_()
        decoder.pixels.bias.copy_(torch.arange(12.0))
    image = decoder(torch.randn(1, 4, 4), (4, 4))
    shuffled = torch.nn.functional.pixel_shuffle(torch.arange(12.0).view(1, 12, 1, 1), 2)
    torch.testing.assert_close(image, shuffled.repeat(1, 1, 2, 2))


def test_interpolated_positions_decode_another_size():
    decoder = ViTDecoder(
        in_dim=4, image_size=32, patch_size=8, width=16, depth=1, heads=2, hidden=32, positions="interpolated"
    )
    assert decoder(torch.randn(1, 24, 4), (32, 48)).shape == (1, 3, 32, 48)
