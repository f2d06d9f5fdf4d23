"""Which pixels stand for which token of a patch decoder, and what the pair can represent."""

import torch

from imtok.decoders.patch import PatchDecoder
from imtok.encoders.patch import PatchEncoder


def test_without_blocks_a_token_writes_its_own_patch_only():
    decoder = PatchDecoder(in_dim=4, patch_size=8, width=16, depth=0)
    latents = torch.randn(1, 12, 4)
    changed = latents.clone()
    changed[0, 6] += 1  # row 1, column 2 of 3 x 4
    difference = (decoder(changed, (24, 32)) - decoder(latents, (24, 32))).abs().sum(1)[0]
    written = torch.zeros(24, 32, dtype=torch.bool)
    written[8:16, 16:24] = True
    assert torch.equal(difference > 1e-6, written)


def test_wide_latents_can_hold_every_pixel():
    """With 3 x p x p channels the linear pair reaches the identity: each pixel has a place of its own."""
    encoder = PatchEncoder(out_dim=12, patch_size=2, width=12, depth=0)
    decoder = PatchDecoder(in_dim=12, patch_size=2, width=12, depth=0)
    with torch.no_grad():
        for conv in (encoder.conv_out, decoder.conv_in):
            conv.weight.copy_(torch.eye(12)[..., None, None])
            conv.bias.zero_()
        for conv, weight in ((encoder.patches, torch.eye(12)), (decoder.patches, torch.eye(12))):
            conv.weight.copy_(weight.reshape(12, 3, 2, 2))
            conv.bias.zero_()
    image = torch.rand(2, 3, 8, 6)
    assert torch.equal(decoder(encoder(image), (8, 6)), image)
