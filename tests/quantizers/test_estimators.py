"""The gradient estimators against their definitions."""

import pytest
import torch
import torch.nn.functional as F

from imtok.quantizers.estimators import rotation, straight_through


def gradient(estimate, codes, latents, direction):
    latents = latents.clone().requires_grad_()
    (estimate(codes, latents) * direction).sum().backward()
    return latents.grad


def rotation_matrix(u, v):
    """The rotation of the plane of u and v that takes u to v, by the formula of Rodrigues."""
    skew = torch.outer(v, u) - torch.outer(u, v)
    return torch.eye(len(u), dtype=u.dtype) + skew + skew @ skew / (1 + u @ v)


@pytest.mark.parametrize("estimate", [straight_through, rotation])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_value_is_the_code_bit_for_bit(estimate, dtype):
    codes, latents = torch.randn(100, 8, dtype=dtype), torch.randn(100, 8, dtype=dtype) * 30
    assert torch.equal(estimate(codes, latents), codes)


def test_straight_through_hands_the_gradient_on():
    codes, latents, direction = torch.randn(3, 20, 8)
    assert torch.equal(gradient(straight_through, codes, latents, direction), direction)


@pytest.mark.parametrize("width", [2, 3, 16])
def test_rotation_turns_and_scales_the_gradient_as_it_turns_and_scales_the_latent(width):
    codes, latents, direction = torch.randn(3, 40, width, dtype=torch.float64)
    ours = gradient(rotation, codes, latents, direction)
    for row in range(40):
        matrix = rotation_matrix(F.normalize(latents[row], dim=0), F.normalize(codes[row], dim=0))
        scale = codes[row].norm() / latents[row].norm()
        torch.testing.assert_close(scale * matrix @ latents[row], codes[row])
        torch.testing.assert_close(ours[row], scale * matrix.T @ direction[row])


def test_rotation_keeps_the_angle_between_gradient_and_code():
    codes, latents, direction = torch.randn(3, 40, 8, dtype=torch.float64)
    turned = gradient(rotation, codes, latents, direction)
    torch.testing.assert_close(
        F.cosine_similarity(turned, latents, dim=-1), F.cosine_similarity(direction, codes, dim=-1)
    )


def test_rotation_of_a_latent_that_is_its_code_is_the_identity():
    codes, direction = torch.randn(2, 40, 8, dtype=torch.float64)
    torch.testing.assert_close(gradient(rotation, codes, codes, direction), direction)


@pytest.mark.parametrize("factor", [-1.0, -3.0, -1 - 1e-7])
def test_rotation_of_opposite_vectors_is_finite_and_no_longer_than_it_should_be(factor):
    codes, direction = torch.randn(2, 40, 8)
    turned = gradient(rotation, codes, factor * codes, direction)
    expected = direction.norm(dim=-1) / abs(factor)
    torch.testing.assert_close(turned.norm(dim=-1), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("zero", ["codes", "latents", "both"])
def test_where_a_vector_is_zero_the_gradient_passes_straight_through(zero):
    codes, latents, direction = torch.randn(3, 40, 8)
    codes, latents = codes * (zero == "latents"), latents * (zero == "codes")
    assert torch.equal(gradient(rotation, codes, latents, direction), direction)
