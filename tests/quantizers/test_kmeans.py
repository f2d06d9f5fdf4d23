"""The start of a codebook: centres of clusters, all of them somewhere that latents are."""

import pytest
import torch

from imtok.quantizers.kmeans import kmeans


def generator():
    return torch.Generator().manual_seed(0)


def test_a_centre_without_latents_moves_to_one():
    """Of four centres on two points at least two coincide, and the second of these gets no latent."""
    points = torch.tensor([[3.0, 1.0], [-2.0, 5.0]])
    centres = kmeans(points.repeat(50, 1), 4, generator())
    assert (torch.cdist(centres, points).min(1).values == 0).all()
    assert (torch.cdist(points, centres).min(1).values == 0).all()


def test_centres_are_the_means_of_their_latents():
    latents = torch.randn(400, 3, dtype=torch.float64)
    centres = kmeans(latents, 8, generator(), iterations=200)
    nearest = torch.cdist(latents, centres).argmin(1)
    means = torch.stack([latents[nearest == code].mean(0) for code in range(8)])
    torch.testing.assert_close(centres, means)


@pytest.mark.parametrize("count", [5, 40])
def test_spherical_centres_have_unit_length_and_the_direction_of_the_sum(count):
    latents = torch.nn.functional.normalize(torch.randn(30, 4, dtype=torch.float64), dim=-1)
    centres = kmeans(latents, count, generator(), iterations=100, spherical=True)
    torch.testing.assert_close(centres.norm(dim=-1), torch.ones(count, dtype=torch.float64))
    if count == 5:
        nearest = (latents @ centres.T).argmax(1)
        sums = torch.stack([latents[nearest == code].sum(0) for code in range(5)])
        torch.testing.assert_close(centres, torch.nn.functional.normalize(sums, dim=-1))


def test_every_rank_draws_the_same_and_another_seed_another_start():
    latents = torch.randn(200, 2)
    first, again = (kmeans(latents, 16, generator(), iterations=1) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, kmeans(latents, 16, torch.Generator().manual_seed(1), iterations=1))
