"""EVA-CLIP ViT-g/14 as SEED reads it: the public code's shape, and the features of the last block but one."""

import pytest
import torch
from encoders.presets import preset

from imtok.construct import construct

WIDTH, DEPTH, SIDE = 44, 3, 56


def timm_net():
    """Of the same kind, with three blocks; its file has the authors' names."""
    from timm.models.eva import Eva

    torch.manual_seed(0)
    sizes = {"img_size": SIDE, "patch_size": 14, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": 2, "num_classes": 5}
    net = Eva(**sizes, mlp_ratio=6144 / 1408, qkv_bias=True).eval()
    for value in net.parameters():
        torch.nn.init.normal_(value, std=0.3)
    return net


def tiny():
    sizes = {"width": WIDTH, "depth": DEPTH, "heads": 2, "layers": [DEPTH - 2], "factor": 14, "weights": "random"}
    return construct(preset("encoder", "eva_clip_g14") | sizes, provided={"out_dim": WIDTH, "image_size": SIDE}).eval()


def test_it_has_the_parameters_of_the_net_in_seeds_code():
    with torch.device("meta"):
        encoder = construct(preset("encoder", "eva_clip_g14"), provided={"out_dim": 32, "image_size": 256})
    assert sum(value.numel() for value in encoder.net.parameters()) == 985_894_528


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_its_features_are_those_before_the_last_block_through_a_file_with_the_authors_names(dtype, tmp_path):
    net, encoder = timm_net(), tiny()
    torch.save(net.state_dict(), tmp_path / "eva.pth")
    encoder.read_weights(tmp_path / "eva.pth")
    pixels = torch.randn(2, 3, SIDE, SIDE, dtype=dtype)
    (expected,) = net.to(dtype).forward_intermediates(
        pixels, indices=[DEPTH - 2], norm=False, output_fmt="NLC", intermediates_only=True
    )
    found = encoder.to(dtype).net(pixels, encoder.layers)[:, 1:]
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    assert error < (1e-5 if dtype == torch.float32 else 1e-12)
