"""Every extractor with a YAML file keeps the contract of ``imtok.extractors.base.Extractor``."""

import pytest
import torch
import yaml
from safetensors.torch import save_file

from imtok.errors import InputError, MissingWeightsError
from imtok.extractors.torchvision import TorchvisionExtractor
from imtok.folders import config_folder
from imtok.measures.chosen import built
from imtok.pixels import to_float, to_uint8

NAMES = sorted(path.stem for path in (config_folder() / "extractor").glob("*.yaml"))
# What makes them small enough for a test: another net of the same class.
SMALL = {
    "dinov2": {"net": "test_vit.r160_in1k", "image_size": 32},
    "timm": {"net": "test_resnet.r160_in1k"},
    "torchvision": {"net": "mobilenet_v3_small", "image_size": 64},
}
RANDOM = ("dinov2", "timm", "torchvision")  # a file of theirs is not needed
# A value of each argument that decides features, which is not the one in the file.
CHANGES = {
    "resize": "half_pixel",
    "dtype": "float64",
    "image_size": 96,
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 0.4],
}


def section(name, **changes):
    written = yaml.safe_load((config_folder() / f"extractor/{name}.yaml").read_text())
    return written | SMALL.get(name, {}) | ({"weights": "random"} if name in RANDOM else {}) | changes


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def usual(name, inception_file):
    """Its section, with weights that can be had on the spot."""
    return section(name, weights=str(inception_file), sha256=None) if name == "inception_tf" else section(name)


@pytest.fixture(scope="module")
def extractor(usual):
    return built(usual, "extractor")


@pytest.fixture(scope="module")
def images():
    coarse = torch.rand(3, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 255
    return torch.nn.functional.interpolate(coarse, (48, 48), mode="bilinear").byte()


def test_features_of_an_image_do_not_depend_on_its_batch(extractor, images):
    whole = extractor(images)
    assert whole.features.shape == (3, extractor.dim)
    alone = [extractor(image[None]) for image in images]
    most = whole.features.abs().max().item()
    torch.testing.assert_close(torch.cat([one.features for one in alone]), whole.features, rtol=0, atol=1e-4 * most)
    assert not torch.allclose(whole.features[0], whole.features[1], rtol=0, atol=1e-3 * most)
    if whole.logits is not None:
        most = whole.logits.abs().max().item()
        torch.testing.assert_close(torch.cat([one.logits for one in alone]), whole.logits, rtol=0, atol=1e-4 * most)


def test_float_levels_and_uint8_agree(extractor, images):
    assert torch.equal(extractor(images).features, extractor(images.float()).features)
    assert torch.equal(to_uint8(to_float(images)), images)


def test_it_stays_frozen_whatever_its_holder_does(extractor, images):
    before, state = extractor(images).features, {k: v.clone() for k, v in extractor.state_dict().items()}
    extractor.train()
    for module in extractor.modules():  # and where only parts of it were set to train
        module.training = module is not extractor
    assert torch.equal(extractor(images).features, before)
    assert not any(module.training for module in extractor.modules())
    assert not before.requires_grad
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    assert all(torch.equal(value, state[key]) for key, value in extractor.state_dict().items())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(extractor(images).features, before)


def test_every_argument_that_decides_features_is_in_hash_and_name(name, usual, extractor):
    names, hashes = {extractor.name}, {extractor.hash}
    changes = {key: value for key, value in CHANGES.items() if key in usual}
    assert {"resize", "dtype"} <= set(changes)
    for key, value in changes.items():
        changed = built({**usual, key: value}, "extractor")
        names.add(changed.name)
        hashes.add(changed.hash)
    assert len(hashes) == len(changes) + 1
    assert len(names) == len(changes) + (name != "inception_tf")  # whose float64 has the name of TiTok's tables
    assert built(dict(usual), "extractor").hash == extractor.hash


def test_a_missing_file_is_named_with_the_key(name, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("imtok.nn.timm_net.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("imtok.nn.efflite0.find_spec", lambda _: None)
    with pytest.raises(MissingWeightsError, match=r"extractor\.weights=PATH") as caught:
        built(section(name, weights=None), "extractor")
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(InputError, match=r"^extractor\.weights=gone\.pth is not a file; [^\n]+$"):
        built(section(name, weights="gone.pth"), "extractor")


def test_another_file_is_another_hash_and_a_wrong_one_is_refused(tmp_path):
    net, hashes = "squeezenet1_1", set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        made = TorchvisionExtractor(net, "random", image_size=32)
        tensors = {key.removeprefix("net."): value.contiguous() for key, value in made.state_dict().items()}
        tensors |= {"classifier.1.weight": torch.rand(1000, 512, 1, 1), "classifier.1.bias": torch.rand(1000)}
        save_file(tensors, tmp_path / f"{seed}.safetensors")
        hashes.add(TorchvisionExtractor(net, tmp_path / f"{seed}.safetensors", image_size=32).hash)
    assert len(hashes) == 2
    with pytest.raises(InputError, match="sha256 must begin with 00ff"):
        TorchvisionExtractor(net, tmp_path / "0.safetensors", sha256="00ff")
    with pytest.raises(InputError, match=r"0\.safetensors is of another net: "):
        TorchvisionExtractor("mobilenet_v3_small", tmp_path / "0.safetensors")


@pytest.mark.parametrize(
    ("option", "change", "said"),
    [
        (
            "torchvision",
            {"net": "resnet51"},
            "net must be a net of torchvision .*, got 'resnet51'; did you mean resnet",
        ),
        ("torchvision", {"net": "fasterrcnn_resnet50_fpn"}, "net must be a net of torchvision that classifies images"),
        ("torchvision", {"net": "resnet18.V9"}, "net must name weights of resnet18 among IMAGENET1K_V1, got"),
        ("torchvision", {"mean": [0.5]}, "mean must be three numbers, one for each channel, got"),
        ("timm", {"net": "no_such_net"}, "net must be a name that timm knows, got 'no_such_net'"),
        ("timm", {"std": [0.5, 0.0, 0.5]}, "std must be above 0, got"),
        ("timm", {"image_size": 0}, "image_size must be at least 1 pixel, got 0"),
        ("dinov2", {"image_size": 33}, ".*33.*"),  # no whole number of patches
        ("dinov2", {"resize": "nearest"}, "resize must be one of tf1, half_pixel, antialiased, bicubic, got 'nearest'"),
        ("efflite0", {"dtype": "float16"}, "dtype must be one of float32, float64, got 'float16'"),
    ],
)
def test_a_setting_that_no_net_has_is_refused_in_one_line(option, change, said):
    with pytest.raises(InputError, match=rf"^extractor: {said}") as caught:
        built(section(option, **change), "extractor")
    assert len(str(caught.value).splitlines()) == 1


def test_the_features_of_torchvision_are_what_its_last_layer_takes(images):
    from torchvision.models import get_model

    made = TorchvisionExtractor("mobilenet_v3_small", "random", image_size=64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = get_model("mobilenet_v3_small").eval()
    found, image = made(images), made.square(images.float())
    with torch.no_grad():
        torch.testing.assert_close(found.logits, whole(image), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.classifier[-1](found.features).detach(), found.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(image.mean(), ((images / 255).mean((0, 2, 3)) - made.mean.view(3) / 255)
                               .div(made.deviation.view(3) / 255).mean(), rtol=0.05, atol=0.05)  # fmt: skip


def test_a_projection_is_no_classifier():
    """CLIP's last layer gives a vector of 512 numbers, which an inception score would take for classes."""
    made = built(section("timm", net="vit_tiny_patch16_224.augreg_in21k_ft_in1k"), "extractor")
    assert made(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).logits.shape == (1, 1000)
    clip = built(section("timm", net="resnet50_clip.openai", image_size=224), "extractor")
    assert clip(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).logits is None


def test_the_options_file_of_dinov2_is_what_fdd_is_measured_in():
    written = yaml.safe_load((config_folder() / "extractor/dinov2.yaml").read_text())
    assert (written["net"], written["image_size"], written["resize"]) == (
        "vit_large_patch14_dinov2.lvd142m",
        224,
        "bicubic",
    )
    assert [written[key] for key in ("mean", "std", "weights", "sha256")] == [None] * 4
