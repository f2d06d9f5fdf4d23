"""LPIPS is that of the lpips package on the same weights, and safe to train with."""

import warnings

import lpips
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from imtok.errors import InputError
from imtok.losses.lpips import LPIPSLoss
from imtok.measures.lpips import LPIPS
from imtok.pixels import to_float


@pytest.fixture(scope="module", params=["vgg", "alex"])
def network(request, tmp_path_factory):
    """A backbone file as torchvision's, with random weights, and the package's LPIPS with the same."""
    name = request.param
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it builds torchvision's nets by an argument of old
        peer = lpips.LPIPS(net=name, pnet_rand=True, verbose=False)
    tensors = {}
    for part in range(1, 6):
        for position, layer in getattr(peer.net, f"slice{part}").named_children():
            for kind, tensor in layer.named_parameters():
                if kind == "weight":  # strong enough for all depths to matter
                    torch.nn.init.kaiming_normal_(tensor)
                tensors[f"features.{position}.{kind}"] = tensor.detach().clone()
    path = tmp_path_factory.mktemp("lpips") / f"{name}.pth"
    torch.save(tensors, path)
    return name, path, peer


@pytest.fixture
def pairs():
    target = torch.rand(3, 3, 40, 48, dtype=torch.float64) * 2 - 1
    return (target + torch.randn_like(target) * torch.tensor([0, 0.05, 0.5])[:, None, None, None]).clamp(-1, 1), target


def test_values_are_those_of_the_package(network, pairs):
    name, path, peer = network
    ours = LPIPSLoss(name, path, sha256=None).double()
    with torch.no_grad():
        theirs = peer.double()(*pairs).flatten()
    torch.testing.assert_close(ours.per_image(*pairs), theirs, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(ours(*pairs), theirs.mean(), rtol=1e-6, atol=1e-12)
    assert ours.per_image(*pairs)[0] == 0


def test_gradients_are_those_of_the_package(network, pairs):
    name, path, peer = network
    ours, gradients = LPIPSLoss(name, path, sha256=None).double(), []
    for loss in (ours, lambda *images: peer.double()(*images).mean()):
        image = pairs[0][1:].clone().requires_grad_()
        gradients.append(torch.autograd.grad(loss(image, pairs[1][1:]), image)[0])
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-9)


def test_the_metric_is_the_mean_over_images(network):
    name, path, peer = network
    image, target = torch.randint(256, (2, 5, 3, 48, 48), dtype=torch.uint8)
    metric = LPIPS(name, path, sha256=None)
    metric.update(image[:2], target[:2])
    metric.update(image[2:], target[2:])
    with torch.no_grad():
        theirs = peer.float()(to_float(image), to_float(target)).mean()
    assert metric.compute().item() == pytest.approx(theirs.item(), rel=1e-5)
    assert metric.name == f"lpips_{name}_unverified"


def test_a_feature_of_nothing_has_a_gradient():
    """The root of zero has none: the package's gradient is NaN here, and one such patch would end a training."""
    loss = LPIPSLoss("vgg", weights="random")
    image = loss.shift.expand(1, 3, 32, 32).clone().requires_grad_()
    for target in (image.detach().clone(), torch.rand(1, 3, 32, 32)):
        (gradient,) = torch.autograd.grad(loss(image, target), image)
        assert torch.isfinite(gradient).all()


def test_its_weights_are_nobody_elses():
    loss = LPIPSLoss("alex", weights="random")
    assert not list(loss.parameters())
    assert not loss.state_dict()
    loss.load_state_dict({})
    torch.manual_seed(99)
    other, image = LPIPSLoss("alex", weights="random").train(), torch.rand(2, 3, 64, 64)
    assert other(image, -image) == loss(image, -image) > 0
    assert (loss.name, loss.hash) == (other.name, other.hash)
    assert loss.name == "lpips_alex_random"


def test_half_precision_is_compared_in_float32():
    loss, image = LPIPSLoss("alex", weights="random"), torch.rand(2, 3, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(image, -image)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(image, -image).item(), rel=0.02)


def test_weights_that_are_missing_or_wrong_are_named(network, tmp_path, monkeypatch):
    name, path, _ = network
    with pytest.raises(InputError, match="is not the expected weight file: its sha256 must begin with"):
        LPIPSLoss(name, path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"\.pth is not in .*download https://download.pytorch.org.*weights=PATH"):
        LPIPSLoss(name)
    with pytest.raises(InputError, match="heads=nowhere is not a file"):
        LPIPSLoss(name, path, heads="nowhere", sha256=None)
    with pytest.raises(InputError, match=r"is of another net: features\.0\.weight must have shape"):
        LPIPSLoss("alex" if name == "vgg" else "vgg", path, sha256=None)
    monkeypatch.setattr("imtok.losses.lpips.find_spec", lambda name: None)
    with pytest.raises(InputError, match="the heads of LPIPS are missing; pip install lpips"):
        LPIPSLoss(name, path, sha256=None)


def test_images_that_do_not_fit_are_refused():
    loss = LPIPSLoss("alex", weights="random")
    loss(torch.zeros(1, 3, 31, 31), torch.zeros(1, 3, 31, 31))
    with pytest.raises(ValueError, match="at least 31 pixels a side for LPIPS with alex"):
        loss(torch.zeros(1, 3, 30, 64), torch.zeros(1, 3, 30, 64))
    with pytest.raises(ValueError, match="net must be one of vgg, alex, got 'squeeze'"):
        LPIPSLoss("squeeze")


@pytest.mark.parametrize(
    ("net", "values"),
    [("vgg", [1.7746585493466072, 1.7602502610714985]), ("alex", [1.9227356866767171, 1.9543130409176166])],
)
def test_random_weights_are_those_of_every_version(net, values):
    image, target = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(3)).mul(2).sub(1).double()
    found = LPIPSLoss(net, weights="random").double().per_image(image, target)
    assert found.tolist() == pytest.approx(values, rel=1e-9)


def test_making_one_draws_nothing_and_its_net_is_no_sub_module():
    before = torch.get_rng_state()
    loss = LPIPSLoss("vgg", weights="random")
    assert torch.equal(torch.get_rng_state(), before)
    assert [type(layer).__name__ for layer in loss.features.net[:3]] == ["Conv2d", "ReLU", "Conv2d"]
    assert sum(weight.numel() for weight in loss.features.net.parameters()) == 14_714_688
    assert not list(loss.features.children())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_those_of_a_net_written_out_bit_for_bit(layout):
    """As it was before: a run that goes on must compute what it would have computed, however its images are stored."""
    loss = LPIPSLoss("alex", weights="random")
    start, target = (torch.rand(2, 3, 32, 32).mul(2).sub(1).contiguous(memory_format=layout) for _ in range(2))

    def written_out(image):
        image = (image - loss.shift) / loss.scale
        for place, layer in enumerate(loss.features.net):
            if isinstance(layer, nn.Conv2d):
                image = F.relu(F.conv2d(image, layer.weight, layer.bias, layer.stride, layer.padding))
                if place + 1 in (1, 4, 7, 9, 11):
                    yield image
            elif isinstance(layer, nn.MaxPool2d):
                image = F.max_pool2d(image, 3, 2)

    gradients = []
    for together in (True, False):
        image = start.clone(memory_format=layout).requires_grad_()
        if together:
            total = sum(loss._compared(image, target, lambda depth, one, other: (one - other).square().mean()))
        else:
            pairs = zip(written_out(image), written_out(target), strict=True)
            total = sum((one - other).square().mean() for one, other in pairs)
        gradients.append(torch.autograd.grad(total, image)[0])
    assert torch.equal(*gradients)
