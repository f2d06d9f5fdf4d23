"""The encoder of ImageFolder: what stands in its sequence, written out with timm's DINOv2."""

import pytest
import torch
from nn.vits import timm_net
from torch.nn import functional as F

from imtok.encoders.imagefolder import ImageFolderEncoder
from imtok.nn.transformer import BlockStyle

SHAPE = {"width": 32, "depth": 3, "heads": 2, "style": BlockStyle(eps=1e-6, layer_scale=1e-5)}


@pytest.mark.parametrize("branches", [1, 2])
def test_latents_of_each_branch_stand_behind_the_patches_at_their_positions_on_their_levels(branches, tmp_path):
    net = timm_net("dinov2_b14", 70)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    encoder = ImageFolderEncoder(12, image_size=64, latents=9, branches=branches, **SHAPE).eval()
    encoder.read_weights(tmp_path / "net.pth")
    with torch.no_grad():
        encoder.latents.normal_()
    net.set_input_size(img_size=(64, 64), patch_size=(16, 16))
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    grid = net.pos_embed[:, 1:].view(1, 4, 4, 32).permute(0, 3, 1, 2)
    own = F.interpolate(grid, (3, 3), mode="bicubic", antialias=True).flatten(2).mT
    seen = torch.cat([net.cls_token.expand(2, -1, -1), net.patch_embed(image)], 1) + net.pos_embed + encoder.levels[0]
    latents = [encoder.latents[9 * k : 9 * k + 9] + own + encoder.levels[1 + k] for k in range(branches)]
    with torch.no_grad():
        read = net.norm(net.blocks(torch.cat([seen, *(part.expand(2, -1, -1) for part in latents)], 1)))[:, 17:]
        expected = torch.cat([encoder.project(part) for part in read.chunk(branches, 1)], -1)
        torch.testing.assert_close(encoder(image).values, expected, rtol=0, atol=1e-5)
    assert encoder.num_latents((64, 128)) == encoder(torch.zeros(1, 3, 64, 128)).values.shape[1] == 9


def test_branches_that_do_not_share_the_channels_evenly_are_refused():
    with pytest.raises(ValueError, match="branches must be a divisor of the latents' width 12, got 5"):
        ImageFolderEncoder(12, image_size=64, branches=5, **SHAPE)
    with pytest.raises(ValueError, match="latents must be at least 1, got 0"):
        ImageFolderEncoder(12, image_size=64, latents=0, **SHAPE)
