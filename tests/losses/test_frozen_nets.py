"""Perceptual losses by frozen nets: right at equality, safe at zero, and nobody else's weights."""

import pytest
import torch
import torch.nn.functional as F

from imtok.errors import InputError
from imtok.extractors.efflite0 import EffLite0
from imtok.losses import efflite0, lpips
from imtok.losses.efflite0 import EffLite0Loss
from imtok.losses.logits import LogitLoss

LOSSES = {
    "efflite0": lambda: EffLite0Loss("random"),
    "convnext_small": lambda: LogitLoss("convnext_small", "random", side=32),
    "resnet50": lambda: LogitLoss("resnet50", "random", side=32),
    "squeezenet1_1": lambda: LogitLoss("squeezenet1_1", "random", side=32),
}


@pytest.fixture(params=LOSSES)
def loss(request):
    return LOSSES[request.param]()


def pictures():
    return F.avg_pool2d(torch.rand(2, 3, 34, 34) * 4 - 2, 3, 1)


def test_it_is_zero_for_equal_images_and_its_gradient_leads_back(loss):
    target = pictures()
    image = (target + 0.1 * torch.randn_like(target)).requires_grad_()
    assert loss(target, target) == 0
    value = loss(image, target)
    (gradient,) = torch.autograd.grad(value, image)
    assert value > 0
    nearer = image.detach() - gradient / gradient.norm() * 1e-2
    assert loss(nearer, target) < value


def test_training_mode_changes_nothing(loss):
    """Dropout or batch statistics that the parent's ``train()`` brings back add a third to the gradient's noise."""
    image, target = pictures(), pictures()
    before = loss.eval()(image, target)
    torch.testing.assert_close(loss.train()(image, target), before, rtol=0, atol=0)
    torch.testing.assert_close(
        loss(image[:1], target[:1]), loss(image[:1].repeat(3, 1, 1, 1), target[:1].repeat(3, 1, 1, 1))
    )


def test_its_weights_are_nobody_elses(loss):
    parent = torch.nn.ModuleDict({"loss": loss})
    assert not list(parent.parameters())
    assert not parent.state_dict()
    parent.load_state_dict({})
    hidden = [tensor for part in loss.modules() if hasattr(part, "net") for tensor in part.net.state_dict().values()]
    assert hidden
    before = [tensor.clone() for tensor in hidden]
    image = pictures().requires_grad_()
    loss(image, pictures()).backward()
    for tensor, kept in zip(hidden, before, strict=True):
        torch.testing.assert_close(tensor, kept, rtol=0, atol=0)
    parent.double()
    net = next(part.net for part in loss.modules() if hasattr(part, "net"))
    assert next(net.parameters()).dtype == torch.float64  # it follows its parent


def test_random_weights_are_always_the_same_and_said(caplog):
    image, target = pictures(), pictures()
    torch.manual_seed(1)
    first = EffLite0Loss("random")(image, target)
    torch.manual_seed(2)
    assert EffLite0Loss("random")(image, target) == first
    assert "efflite0 has random weights (weights=random)" in caplog.text


@pytest.mark.parametrize("unit", [efflite0._unit, lpips._unit], ids=["efflite0", "lpips"])
def test_a_feature_of_nothing_has_a_finite_gradient(unit):
    """A vector of zeros has no length: with the epsilon beside the root its gradient is NaN."""
    features = torch.zeros(1, 4, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad((unit(features) - unit(torch.ones(1, 4, 2, 2))).square().sum(), features)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_flat_images_have_a_finite_gradient(loss, value):
    image = torch.full((1, 3, 32, 32), value, requires_grad=True)
    for target in (image.detach(), pictures()[:1]):
        (gradient,) = torch.autograd.grad(loss(image, target), image)
        assert torch.isfinite(gradient).all()


def test_efflite0_reads_the_net_that_the_metric_reads():
    """Its stages lead to the features that the extractor of the same file gives, at the same pixels."""
    levels = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    extractor, loss = EffLite0(), EffLite0Loss()
    features = loss.frozen.net((levels.float() - 127) / 128)
    torch.testing.assert_close(features, extractor(levels).features.float(), rtol=1e-4, atol=1e-5)
    shapes = [tuple(f.shape[1:]) for f in loss._features(levels.float() / 127.5 - 1)]
    assert shapes == [(16, 112, 112), (24, 56, 56), (40, 28, 28), (112, 14, 14)]


def test_a_score_is_that_of_the_classifier_on_imagenets_pixels():
    loss, image = LogitLoss("resnet50", "random", side=32), pictures()
    pixels = (image + 1) / 2
    normal = torch.stack(
        [(pixels[:, c] - m) / s for c, (m, s) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225)))], 1
    )
    torch.testing.assert_close(loss._scores(image), loss.classifier.net(normal), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("net", ["convnext_small", "resnet50", "squeezenet1_1"])
def test_missing_and_wrong_weights_are_one_line(tmp_path, monkeypatch, net):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=rf"{net}-\w+\.pth is not in .*download https://.*weights=PATH"):
        LogitLoss(net)
    with pytest.raises(InputError, match="weights=gone is not a file"):
        LogitLoss(net, "gone")
    path = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="is not the expected weight file"):
        LogitLoss(net, path)
    with pytest.raises(InputError, match="is of another net"):
        LogitLoss(net, path, sha256=None)


def test_too_small_images_and_sides_are_refused():
    with pytest.raises(ValueError, match="at least 16 pixels"):
        EffLite0Loss("random")(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="side must be at least 32"):
        LogitLoss(weights="random", side=16)
