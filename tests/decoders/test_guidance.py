"""Guidance against its formulas."""

import pytest
import torch

from imtok.decoders.guidance import AdaptiveProjectedGuidance, ClassifierFreeGuidance

SHAPE = (2, 3, 4, 4)


@pytest.fixture
def conditional():
    return torch.randn(SHAPE, dtype=torch.float64)


@pytest.fixture
def null():
    return torch.randn(SHAPE, dtype=torch.float64)


def dot(first, second):
    return (first * second).sum((1, 2, 3))


def test_classifier_free_guidance_goes_on_from_the_null_through_the_conditional(conditional, null):
    guided, _ = ClassifierFreeGuidance(3.0).combine(conditional, null, None)
    torch.testing.assert_close(guided, null + 3 * (conditional - null))


@pytest.mark.parametrize("guidance", [ClassifierFreeGuidance, AdaptiveProjectedGuidance])
def test_a_scale_of_one_is_no_guidance(guidance, conditional, null):
    torch.testing.assert_close(guidance(1.0).combine(conditional, null, None)[0], conditional)


def test_the_projected_update_is_at_right_angles_to_the_prediction_and_no_longer_than_the_threshold(conditional, null):
    guidance = AdaptiveProjectedGuidance(5.0, norm_threshold=0.5)
    update = (guidance.combine(conditional, null, None)[0] - conditional) / 4
    torch.testing.assert_close(dot(update, conditional), torch.zeros(2).double(), atol=1e-12, rtol=0)
    assert (dot(update, update).sqrt() < 0.5).all()
    guidance.parallel = 1.0
    update = (guidance.combine(conditional, null, None)[0] - conditional) / 4
    torch.testing.assert_close(dot(update, update).sqrt(), torch.full((2,), 0.5).double())


def test_with_the_parallel_part_and_no_threshold_it_is_classifier_free_guidance(conditional, null):
    guidance = AdaptiveProjectedGuidance(5.0, momentum=0.0, parallel=1.0, norm_threshold=0.0)
    expected, _ = ClassifierFreeGuidance(5.0).combine(conditional, null, None)
    torch.testing.assert_close(guidance.combine(conditional, null, torch.randn(SHAPE).double())[0], expected)


def test_momentum_adds_a_share_of_the_running_update(conditional, null):
    guidance = AdaptiveProjectedGuidance(5.0, momentum=-0.5, parallel=1.0, norm_threshold=0.0)
    _, first = guidance.combine(conditional, null, None)
    torch.testing.assert_close(first, conditional - null)
    _, second = guidance.combine(null, conditional, first)
    torch.testing.assert_close(second, 1.5 * (null - conditional))
    guided, _ = guidance.combine(null, conditional, first)
    torch.testing.assert_close(guided, null + 4 * second)


def test_an_image_is_guided_alone(conditional, null):
    guidance = AdaptiveProjectedGuidance(5.0)
    both, _ = guidance.combine(conditional, null, None)
    alone, _ = guidance.combine(conditional[1:], null[1:], None)
    torch.testing.assert_close(both[1:], alone)


def test_equal_predictions_of_zero_stay_finite():
    zero = torch.zeros(SHAPE)
    assert torch.equal(AdaptiveProjectedGuidance(5.0).combine(zero, zero, None)[0], zero)


def test_a_negative_threshold_is_refused():
    with pytest.raises(ValueError, match=r"norm_threshold must not be negative, got -1.0"):
        AdaptiveProjectedGuidance(norm_threshold=-1.0)
