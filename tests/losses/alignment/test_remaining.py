"""Codes in the place of a net's tokens: what they are drawn to, and what learns."""

import pytest
import torch
from torch.nn import functional as F

from imtok.losses.alignment.remaining import RemainingLayers
from imtok.losses.teachers import Teacher
from imtok.types import Quantized


def built(layer=7, name="test_vit3", **settings):
    teacher = Teacher(name, "random", image_size=32, layer=layer)
    return RemainingLayers(teacher, **{"dim": 16, "channels": [4, 12]} | settings)


def asked(loss, codes, image):
    quantized = Quantized(codes, torch.zeros(*codes.shape[:2], 1, dtype=torch.long))
    return loss(image, quantized, {"quantizer": codes}, step=0)


def test_the_value_is_that_of_the_net_by_hand():
    loss, codes, image = built(patch_weight=5.0), torch.randn(2, 4, 16), torch.rand(2, 3, 32, 32) * 2 - 1
    net = loss.teacher.frozen.net
    with torch.no_grad():
        _, (patches,) = net.forward_intermediates(loss.teacher.pixels(image), indices=[7], output_fmt="NLC")
        summary = net.forward_head(net.forward_features(loss.teacher.pixels(image)), pre_logits=True)
        tokens = loss.widen(codes[..., 4:12])
        pooled = net.attn_pool(net.norm(net.blocks[8](tokens)))
    parts = [
        F.mse_loss(made, wanted) + 1 - F.cosine_similarity(made, wanted, dim=-1).mean()
        for made, wanted in ((tokens, patches), (pooled, summary))
    ]
    torch.testing.assert_close(asked(loss, codes, image), 5 * parts[0] + parts[1])


def test_codes_and_the_layers_behind_them_learn_and_the_frozen_net_does_not():
    loss, codes = built(), torch.randn(2, 4, 16, requires_grad=True)
    asked(loss, codes, torch.rand(2, 3, 32, 32) * 2 - 1).backward()
    assert (codes.grad.abs().sum((0, 1)) > 0).tolist() == [4 <= channel < 12 for channel in range(16)]
    assert all(parameter.grad is not None for parameter in loss.parameters())
    assert {name.split(".")[0] for name, _ in loss.named_parameters()} == {"widen", "rest"}
    net = loss.teacher.frozen.net
    assert len(net.blocks) == 9
    assert len(loss.rest.blocks) == 1
    assert torch.equal(loss.rest.blocks[0].mlp.fc1.weight, net.blocks[8].mlp.fc1.weight)
    assert not any(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layer": None}, "teacher.layer must be a block of a vision transformer, from 0, got None"),
        (
            {"name": "test_vit", "layer": 1},
            "teacher must pool its patches, as SigLIP does; test_vit speaks by its class",
        ),
    ],
)
def test_nets_without_such_layers_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        built(**settings)


def test_patches_are_resized_to_another_square_number_of_codes_and_others_are_refused():
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    assert asked(built(channels=None), torch.randn(2, 9, 16), image).isfinite()
    with pytest.raises(ValueError, match="tokens must be 4, as the teacher's patches, or a square number"):
        asked(built(), torch.randn(2, 8, 16), image)
    with pytest.raises(ValueError, match="channels must be a first and a last one of 8, got 4 and 12"):
        built(dim=8)
