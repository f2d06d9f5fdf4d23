"""Which pixels stand for which token of a patch decoder, and what the pair can represent."""

import pytest
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
    assert torch.equal(decoder(encoder(image).values, (8, 6)), image)


@pytest.mark.parametrize(("patch_size", "channels"), [(8, [16, 8]), (8, [8]), (8, [8, 8, 8]), (16, [8, 8]), (6, [8])])
def test_up_channels_make_pictures_of_every_size_to_which_patches_flow_together(patch_size, channels):
    decoder = PatchDecoder(in_dim=4, patch_size=patch_size, width=16, depth=0, up_channels=channels)
    size = (3 * patch_size, 4 * patch_size)
    latents = torch.randn(1, 12, 4)
    changed = latents.clone()
    changed[0, 6] += 1  # row 1, column 2 of 3 x 4
    pictures = decoder(latents, size), decoder(changed, size)
    assert pictures[0].shape == (1, 3, *size)
    moved = (pictures[0] - pictures[1]).abs().sum(1)[0] > 1e-6
    assert moved[patch_size : 2 * patch_size, 2 * patch_size : 3 * patch_size].all()
    assert moved[patch_size : 2 * patch_size, 2 * patch_size - 1].all()  # the neighbour's last column


def test_a_patch_that_cannot_be_halved_so_often_is_refused():
    with pytest.raises(ValueError, match="patch_size must be a multiple of 4 where up_channels has 2 numbers, got 6"):
        PatchDecoder(in_dim=4, patch_size=6, up_channels=[8, 8])


@pytest.mark.parametrize("channels", [[0], [8, -1]])
def test_a_resolution_without_channels_is_refused(channels):
    with pytest.raises(ValueError, match="up_channels must be at least 1 each"):
        PatchDecoder(in_dim=4, up_channels=channels)


def test_without_up_channels_the_weights_are_those_of_before():
    names = PatchDecoder(in_dim=4, depth=1).state_dict().keys()
    assert {name.split(".")[0] for name in names} == {"conv_in", "blocks", "norm_out", "patches"}


def test_a_shortcut_adds_a_linear_map_of_the_latents():
    plain = PatchDecoder(in_dim=4, patch_size=8, width=16, depth=1)
    decoder = PatchDecoder(in_dim=4, patch_size=8, width=16, depth=1, shortcut=True)
    decoder.load_state_dict(plain.state_dict() | {k: v for k, v in decoder.state_dict().items() if "shortcut" in k})
    first, second = torch.randn(2, 1, 12, 4)

    def added(latents: torch.Tensor) -> torch.Tensor:
        return decoder(latents, (24, 32)) - plain(latents, (24, 32))

    zero = added(torch.zeros(1, 12, 4))
    together = added(first + second) - zero
    assert torch.allclose(together, added(first) - zero + added(second) - zero, atol=1e-5)
    assert together.abs().amin((0, 1)).gt(0).all()  # every pixel has a part in it


def test_deblocking_makes_steps_between_patches_smaller_and_changes_nothing_else():
    plain = PatchDecoder(in_dim=4, patch_size=8, width=16, depth=0)
    decoder = PatchDecoder(in_dim=4, patch_size=8, width=16, depth=0, deblock=0.5)
    decoder.load_state_dict(plain.state_dict())
    latents = torch.randn(1, 12, 4)
    before, after = plain(latents, (24, 32)), decoder(latents, (24, 32))
    rows = slice(9, 15)  # away from the borders above and below
    assert torch.allclose(
        after[:, :, rows, 8] - after[:, :, rows, 7], (before[:, :, rows, 8] - before[:, :, rows, 7]) / 2
    )
    assert torch.allclose(
        after[:, :, 8, 9:15] - after[:, :, 7, 9:15], (before[:, :, 8, 9:15] - before[:, :, 7, 9:15]) / 2
    )
    assert torch.equal(after[:, :, rows, 9:15], before[:, :, rows, 9:15])
    assert torch.allclose(after.sum(), before.sum(), atol=1e-4)


@pytest.mark.parametrize(("deblock", "patch_size"), [(-0.1, 8), (1.5, 8), (0.5, 1)])
def test_deblocking_out_of_range_is_refused(deblock, patch_size):
    with pytest.raises(ValueError, match=r"deblock must be in \[0, 1\]"):
        PatchDecoder(in_dim=4, patch_size=patch_size, deblock=deblock)
