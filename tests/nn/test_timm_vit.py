"""Nets of timm that our vision transformer is: the same features, and others that stay with timm."""

from pathlib import Path

import pytest
import timm
import torch
from nn.vits import randomised
from safetensors.torch import save_file

from imtok.losses.teachers import Teacher
from imtok.nn.timm_vit import shape_of, timm_vit
from imtok.nn.vit import ViT
from imtok.nn.vit_files import VitFile

OURS = [
    "vit_small_patch14_dinov2.lvd142m",
    "vit_giant_patch14_dinov2.lvd142m",
    "vit_large_patch14_reg4_dinov2.lvd142m",
    "vit_base_patch16_clip_224.openai",
    "vit_large_patch14_clip_224.openai",
    "vit_base_patch16_clip_quickgelu_224.openai",
    "vit_small_patch16_224.dino",
    "vit_base_patch16_224.mae",
    "vit_base_patch16_224.augreg_in21k",
    "deit3_small_patch16_224.fb_in1k",
]
OTHERS = [
    "vit_so400m_patch14_siglip_224.v2_webli",  # speaks of an image by pooling with attention
    "vit_small_patch16_dinov3.lvd1689m",
    "eva02_small_patch14_224.mim_in22k",
    "deit_small_distilled_patch16_224.fb_in1k",
    "vit_base_patch16_rpn_224.sw_in1k",
    "vit_relpos_base_patch16_224.sw_in1k",
    "resnet50.a1_in1k",
]
SMALL = {"depth": 3, "embed_dim": 32, "num_heads": 2}


def small(name, side, **settings):
    return randomised(timm.create_model(name, img_size=side, **SMALL, **settings))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("name", OURS)
def test_features_are_those_of_timm(name, dtype):
    side = 56 if "patch14" in name else 64
    theirs = small(name, side)
    shape = shape_of(theirs, side)
    assert shape is not None
    ours = ViT(**shape).eval()
    ours.load_state_dict(VitFile(Path("file"), dict(theirs.state_dict())).weights(ours))
    theirs, ours, pixels = theirs.to(dtype), ours.to(dtype), torch.randn(2, 3, side, side, dtype=dtype)
    with torch.no_grad():
        features = theirs.forward_features(pixels)
        tapped = theirs.forward_intermediates(pixels, indices=[1], intermediates_only=True)[0]
        found, tap = ours(pixels), ours(pixels, [1])[:, ours.prefix :]
    near = {"rtol": 0, "atol": 1e-4 if dtype == torch.float32 else 1e-12}
    torch.testing.assert_close(found, features, **near)
    torch.testing.assert_close(found[:, 0], theirs.forward_head(features, pre_logits=True), **near)
    torch.testing.assert_close(tap, tapped.flatten(2).mT, **near)


@pytest.mark.parametrize("name", OTHERS)
def test_other_nets_stay_with_timm(name):
    with torch.device("meta"):
        net = timm.create_model(name)
        assert shape_of(net, net.pretrained_cfg["input_size"][-1]) is None


def test_a_side_that_is_no_multiple_of_the_patch_stays_with_timm():
    with torch.device("meta"):
        net = timm.create_model("vit_small_patch14_dinov2.lvd142m", img_size=256)
    assert shape_of(net, 256) is None
    assert shape_of(net, 252) is not None


@pytest.mark.parametrize("layer", [None, 1, -1])
def test_a_teacher_sees_what_it_saw_through_timm(layer):
    teacher = Teacher("test_vit", "random", image_size=64, layer=layer)
    assert isinstance(teacher.frozen.net, ViT)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model("test_vit", img_size=64).eval()
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    pixels = ((image + 1) / 2 - teacher.mean) / teacher.deviation
    with torch.no_grad():
        if layer is None:
            features = net.forward_features(pixels)
            expected = features[:, 1:], net.forward_head(features, pre_logits=True)
        else:
            maps = net.forward_intermediates(pixels, indices=[layer], intermediates_only=True)[0].flatten(2).mT
            expected = maps, maps.mean(1)
    torch.testing.assert_close(tuple(teacher(image)), expected, rtol=0, atol=1e-5)


def test_positions_of_a_file_are_resized_as_timm_does_it(tmp_path):
    net = randomised(timm.create_model("test_vit", img_size=96))
    save_file(net.state_dict(), tmp_path / "vit.safetensors")
    ours = timm_vit("test_vit", tmp_path / "vit.safetensors", 64, img_size=64)
    overlay = {"file": str(tmp_path / "vit.safetensors")}
    theirs = timm.create_model("test_vit", pretrained=True, pretrained_cfg_overlay=overlay, img_size=64).eval()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels), theirs.forward_features(pixels), rtol=0, atol=1e-4)


def test_a_file_of_transformers_is_read_for_a_name_of_timm(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 12}
    config = transformers.Dinov2Config(image_size=56, patch_size=14, **sizes)
    net = transformers.Dinov2Model(config).eval().requires_grad_(False)
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, tmp_path / "model.safetensors")
    teacher = Teacher("vit_small_patch14_dinov2.lvd142m", tmp_path / "model.safetensors", 56)
    pixels = torch.randn(1, 3, 56, 56)
    found = teacher.frozen.net(pixels)
    torch.testing.assert_close(found, net(pixels).last_hidden_state, rtol=0, atol=1e-4)
