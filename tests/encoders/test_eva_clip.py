"""EVA-CLIP ViT-g/14 as SEED reads it: the public code's shape, and the features of the last block but one."""

import pytest
import torch
from encoders.presets import preset, unchecked

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


def test_the_space_of_seed_gives_these_features_normed_and_is_the_net_of_the_published_recipe(tmp_path):
    net, side = timm_net(), SIDE
    torch.save(net.state_dict(), tmp_path / "eva.pth")
    sizes = {"width": WIDTH, "depth": DEPTH - 1, "heads": 2, "side": side}
    space = construct(preset("space", "eva_clip_g") | sizes | {"weights": str(tmp_path / "eva.pth")}).eval()
    assert space.find_weights() == tmp_path / "eva.pth"
    space.read_weights(tmp_path / "eva.pth")
    image = torch.rand(2, 3, side, side) * 2 - 1
    pixels = ((image + 1) / 2 - space.mean) / space.deviation
    (expected,) = net.forward_intermediates(pixels, indices=[DEPTH - 2], norm=False, intermediates_only=True)
    expected = torch.nn.functional.layer_norm(expected.movedim(1, -1), (WIDTH,), eps=1e-6).movedim(-1, 1)
    torch.testing.assert_close(space.encode(image), expected, rtol=1e-4, atol=1e-4)
    with torch.device("meta"):
        whole = construct(preset("space", "eva_clip_g"))
    assert sum(value.numel() for value in whole.parameters()) == 985_894_528


@pytest.mark.parametrize(
    "change", [{"heads": 4}, {"mean": [0.5, 0.5, 0.5]}, {"style": {"mlp": "quick_gelu"}}, {"side": 70}], ids=str
)
def test_stored_maps_of_another_net_are_told_apart(change):
    own = preset("space", "eva_clip_g") | {"width": WIDTH, "depth": 1, "heads": 2, "side": SIDE, "weights": "random"}
    found = []
    for config in (own, own | change | {"style": own["style"] | change.get("style", {})}):
        torch.manual_seed(0)
        found.append(construct(config).about)
    assert found[0] != found[1]
    torch.manual_seed(0)
    assert construct(own).about == found[0]


def test_a_space_whose_images_are_no_whole_patches_is_refused():
    with unchecked(), pytest.raises(ValueError, match="side must be a positive multiple of 14, got 60"):
        construct(preset("space", "eva_clip_g") | {"side": 60, "width": 16, "depth": 1, "heads": 2})
