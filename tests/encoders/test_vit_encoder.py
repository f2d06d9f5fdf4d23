"""Which latent of a ViT stands for which patch, and its published size together with its decoder."""

import pytest
import torch
from encoders.presets import preset

from imtok.construct import construct
from imtok.encoders.vit import ViTEncoder


def test_without_blocks_a_patch_moves_its_own_latent_only():
    encoder = ViTEncoder(out_dim=4, image_size=32, patch_size=8, width=16, depth=0, heads=2)
    image = torch.rand(1, 3, 32, 32)
    changed = image.clone()
    changed[..., 9, 30] += 1
    moved = (encoder(changed).values - encoder(image).values).abs().amax((0, 2)) > 1e-6
    assert moved.nonzero().flatten().tolist() == [7]


def test_a_patch_is_read_channel_by_channel_row_by_row():
    encoder = ViTEncoder(out_dim=4, image_size=4, patch_size=2, width=12, depth=0, heads=2, norm_in="none")
    image = torch.rand(1, 3, 4, 4)
    with torch.no_grad():
        encoder.patches.weight.copy_(torch.eye(12).view(12, 3, 2, 2))
        encoder.positions.table.zero_()
        encoder.norm_out = encoder.project = torch.nn.Identity()
    expected = torch.nn.functional.unfold(image, 2, stride=2).transpose(1, 2)
    torch.testing.assert_close(encoder(image).values, expected)


@pytest.mark.parametrize(("dim", "expected"), [(18, 174_816_210), (36, 174_843_876)])
def test_bsq_vit_has_as_many_parameters_as_the_official_code(dim, expected):
    with torch.device("meta"):
        parts = [
            construct(preset("encoder", "vit"), provided={"out_dim": dim, "image_size": 256}),
            construct(preset("decoder", "vit"), provided={"in_dim": dim, "image_size": 256}),
        ]
    assert sum(value.numel() for part in parts for value in part.parameters()) == expected
