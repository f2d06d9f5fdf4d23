"""Features as a target, and what the places of an image say of each other, against formulas written out by hand."""

import pytest
import torch
from encoders.presets import unchecked

from imtok.losses.alignment.alignment import Alignment
from imtok.losses.alignment.heads import MLPHead
from imtok.losses.alignment.patch_distances import FeatureError, Gram
from imtok.losses.teachers import Teacher
from imtok.types import Quantized


def maps(*widths, places=5):
    return (torch.randn(3, places, width, dtype=torch.float64) for width in widths)


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_the_error_of_a_feature_is_cosine_and_smooth_l1(beta):
    own, wanted = maps(6, 6)
    found = FeatureError(0.7, 0.2, beta)(own, wanted)
    for image in range(3):
        for place in range(5):
            one, two = own[image, place], wanted[image, place]
            cosine = 1 - (one @ two) / (one.norm() * two.norm())
            apart = [0.5 * d * d / beta if d < beta else d - 0.5 * beta for d in (one - two).abs().tolist()]
            expected = 0.7 * cosine.item() + 0.2 * sum(apart) / 6
            assert found[image, place].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("negative", ["cut", "kept"])
def test_gram_is_the_squared_difference_of_all_cosines_of_an_image(negative):
    own, wanted = maps(4, 9)
    total = 0.0
    for image in range(3):
        for one in range(5):
            for two in range(5):
                pair = [
                    float(side[image, one] @ side[image, two] / (side[image, one].norm() * side[image, two].norm()))
                    for side in (own, wanted)
                ]
                total += (max(pair[0], 0) - max(pair[1], 0)) ** 2 if negative == "cut" else (pair[0] - pair[1]) ** 2
    assert Gram(negative)(own, wanted).mean().item() == pytest.approx(total / (3 * 25), rel=1e-12)


def test_gram_does_not_see_a_turn_of_all_features_and_its_gradient_is_exact():
    (own,) = maps(6)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    assert Gram("kept")(own @ turn, own).max() < 1e-24
    own.requires_grad_()
    assert torch.autograd.gradcheck(lambda one: Gram("kept")(one, torch.ones_like(one)).mean(), own)


def aligned(distance, head=None, feature="patches"):
    teacher = Teacher("test_vit", weights="random", image_size=32)
    return Alignment(teacher, "quantizer", loss=distance, head=head, feature=feature)


def test_an_alignment_compares_codes_of_any_width_with_the_teacher_by_gram():
    codes = torch.randn(2, 4, 7, requires_grad=True)
    quantized = Quantized(codes, torch.zeros(2, 4, 1, dtype=torch.long))
    alignment, image = aligned(Gram()), torch.rand(2, 3, 32, 32) * 2 - 1
    value = alignment(image, quantized, {"quantizer": codes}, 0)
    expected = Gram()(codes, alignment.teacher(image).patches).mean()
    torch.testing.assert_close(value, expected)
    value.backward()
    assert codes.grad is not None
    assert codes.grad.any()


def test_gram_wants_every_place_and_no_summary():
    codes = torch.randn(2, 4, 7)
    quantized = Quantized(codes, torch.zeros(2, 4, 1, dtype=torch.long), torch.tensor([[True] * 3 + [False]] * 2))
    with pytest.raises(ValueError, match="every token is needed for a loss between the places of an image"):
        aligned(Gram())(torch.zeros(2, 3, 32, 32), quantized, {"quantizer": codes}, 0)
    with pytest.raises(ValueError, match="feature must be patches for a loss between the places of an image"):
        aligned(Gram(), feature="summary")


def test_features_as_a_target_want_a_head_as_wide_as_the_teacher():
    with pytest.raises(ValueError, match=r"head\.out_dim must be 64, the width of the teacher's features, got 9"):
        aligned(FeatureError(), MLPHead(7, 9))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureError(cosine=-1.0), r"cosine and smooth must not be negative and beta be positive, got -1\.0"),
        (lambda: FeatureError(beta=0.0), "beta be positive"),
        (lambda: Gram("gone"), "negative must be cut or kept, got 'gone'"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        make()
