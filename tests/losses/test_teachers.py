"""Teachers: what they see, that they stay as they are and out of checkpoints, and what is said of files."""

import copy
import logging

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from imtok.errors import InputError
from imtok.losses.teachers import Teacher


def build(name="test_vit", size=64, **settings):
    return Teacher(name, weights="random", image_size=size, **settings)


def test_features_are_those_of_timm_on_the_normalised_image():
    teacher = build(size=64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model("test_vit", img_size=64).eval()
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    config = net.pretrained_cfg
    mean, deviation = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        expected = net.forward_features(((image + 1) / 2 - mean) / deviation)
    patches, summary = teacher(image)
    torch.testing.assert_close(patches, expected[:, 1:])
    torch.testing.assert_close(summary, net.forward_head(expected, pre_logits=True))


def test_patches_are_row_by_row():
    """A change in the lower left corner moves the first patch of the last row most, before anything is mixed."""
    teacher = build("test_vit", size=64, layer=0)
    image = torch.zeros(1, 3, 64, 64)
    other = image.clone()
    other[..., 48:, :16] = 1
    moved = (teacher(image).patches - teacher(other).patches).norm(dim=-1)[0]
    assert moved.argmax() == 12


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit3", "test_mambaout"])
def test_any_kind_of_net_gives_patches_and_a_summary(name):
    teacher = build(name, size=96)
    patches, summary = teacher(torch.rand(2, 3, 32, 32) * 2 - 1)
    assert patches.shape[-1] == teacher.dim
    assert summary.shape == (2, teacher.summary_dim)
    assert round(patches.shape[1] ** 0.5) ** 2 == patches.shape[1] > 1
    assert torch.isfinite(patches).all()
    assert Teacher.widths(name, image_size=96) == (teacher.dim, teacher.summary_dim)


def test_images_are_resized_and_clamped():
    teacher = build()
    image = torch.rand(2, 3, 40, 40) * 2 - 1
    large = F.interpolate(image, (64, 64), mode="bicubic", antialias=True, align_corners=False)
    assert torch.equal(teacher(image).patches, teacher(large).patches)
    assert torch.equal(teacher(torch.full((1, 3, 64, 64), 3.0)).patches, teacher(torch.ones(1, 3, 64, 64)).patches)


def test_random_weights_are_always_the_same_and_said_in_the_log(caplog):
    with caplog.at_level(logging.WARNING):
        one = build()
    assert [record.message for record in caplog.records if "random weights" in record.message]
    torch.randn(5)
    before = torch.get_rng_state()
    two = build()
    assert torch.equal(before, torch.get_rng_state()), "building one does not shift the run's own numbers"
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(one(image).patches, two(image).patches)


def test_it_is_in_no_checkpoint_and_no_optimiser_and_stays_in_evaluation_mode():
    teacher = build("test_efficientnet", size=64)
    holder = nn.Sequential(teacher, nn.Linear(2, 2)).train()
    assert list(holder.state_dict()) == ["1.weight", "1.bias"]
    assert len(list(holder.parameters())) == 2
    assert not teacher.frozen.net.training
    assert not any(parameter.requires_grad for parameter in teacher.frozen.net.parameters())
    statistics = {name: value.clone() for name, value in teacher.frozen.net.state_dict().items()}
    teacher(torch.rand(4, 3, 64, 64))
    assert all(torch.equal(value, statistics[name]) for name, value in teacher.frozen.net.state_dict().items())


def test_it_follows_its_holder_to_another_type_and_can_be_copied():
    teacher = build()
    holder = nn.ModuleList([teacher]).double()
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    features = teacher(image).patches
    assert features.dtype == torch.float64
    assert torch.equal(copy.deepcopy(holder)[0](image).patches, features)


def test_no_gradient_reaches_the_image():
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    assert not build()(image).patches.requires_grad


def test_a_local_file_gives_the_net_that_was_saved(tmp_path):
    net = timm.create_model("test_vit", img_size=64)
    save_file(net.state_dict(), tmp_path / "vit.safetensors")
    teacher = Teacher("test_vit", weights=tmp_path / "vit.safetensors", image_size=64)
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = net.eval().forward_features(pixels)
        torch.testing.assert_close(teacher.frozen.net(pixels), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [
        (
            "vit_base_patch14_dinov2.lvd142m",
            None,
            "download https://huggingface.co/timm/vit_base_patch14_dinov2.lvd142m",
        ),
        ("vit_base_patch14_dinov2.lvd142m", "absent.pth", "weights=.*absent.pth is not a file"),
        ("test_vit", "other.safetensors", "does not hold the weights of test_vit"),
        ("test_vit", "damaged.safetensors", "does not hold the weights of test_vit"),
    ],
)
def test_missing_or_wrong_weights_are_one_line_with_the_fix(name, file, said, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    save_file({"head.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"not a weight file")
    with pytest.raises(InputError, match=said) as caught:
        Teacher(name, weights=file and tmp_path / file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "vit_of_nobody"}, "timm knows"),
        ({"name": "test_vit", "layer": 99}, "no features at 160 pixels, layer 99"),
        ({"name": "test_vit", "image_size": 0}, "image_size"),
    ],
)
def test_nets_that_do_not_exist_or_cannot_look_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Teacher(**settings, weights="random")
