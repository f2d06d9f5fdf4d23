"""k-means in batches is k-means, to the last bit the same however the batches come."""

import numpy as np
import pytest
import torch
from sklearn import cluster

from imtok.quantizers.clustering import Clustering, first_centres
from imtok.quantizers.clusters import KMeans


def cloud(seed, points=6000, dim=12):
    """Points that lie in no clear clusters, as features do."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(points, dim, generator=generator) @ torch.randn(dim, dim, generator=generator)
    return mixed + 2 * torch.randn(20, dim, generator=generator)[torch.randint(20, (points,), generator=generator)]


def one_pass(found, batches):
    for batch in batches:
        found.add(batch)
    found.merge()
    found.end_pass()


def inertia(points, centres):
    return torch.cdist(points.double(), centres.double()).square().amin(1).sum().item()


@pytest.mark.parametrize("seed", range(3))
def test_the_squared_distance_is_within_one_percent_of_scikit_learns(seed):
    points = cloud(seed)
    found = first_centres(points[:2000], 64, seed)
    for _ in range(20):
        one_pass(found, points.split(256))
    theirs = cluster.KMeans(64, n_init=1, max_iter=50, random_state=seed).fit(points.numpy())
    batched = cluster.MiniBatchKMeans(64, n_init=3, random_state=seed).fit(points.numpy())
    ours = inertia(points, found.centres)
    assert ours < 1.01 * theirs.inertia_
    assert ours < batched.inertia_
    assert found.distances == sorted(found.distances, reverse=True)
    assert found.distances[-1] * len(points) == pytest.approx(ours, rel=1e-3)


def test_ids_of_scikit_learns_centres_are_its_own():
    points = cloud(3)
    theirs = cluster.KMeans(64, n_init=1, random_state=0).fit(points.numpy())
    quantizer = KMeans(dim=12, codebook_size=64)
    quantizer.centres.copy_(torch.from_numpy(theirs.cluster_centers_))
    ids = quantizer(points[None]).ids[0, :, 0]
    assert np.array_equal(ids.numpy(), theirs.predict(points.numpy()))


def test_of_equal_centres_the_first_is_taken():
    quantizer = KMeans(dim=2, codebook_size=3)
    quantizer.centres.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
    assert quantizer(torch.tensor([[[0.0, 3.0], [2.0, 2.0]]])).ids.flatten().tolist() == [1, 0]


def test_the_order_and_the_size_of_batches_change_no_bit():
    points, found = cloud(4), []
    for batches in (points.split(500), points.split(500)[::-1], points.flip(0).split(77)):
        clusters = first_centres(points[:1000], 32, 0)
        for _ in range(3):
            one_pass(clusters, batches)
        found.append(clusters)
    for other in found[1:]:
        assert torch.equal(found[0].centres, other.centres)
        assert found[0].distances == pytest.approx(other.distances, rel=1e-12)


def test_what_is_stored_goes_on_with_the_same_bits():
    points = cloud(5)
    whole, half = (first_centres(points[:1000], 32, 0) for _ in range(2))
    one_pass(whole, points.split(500))
    one_pass(whole, points.split(500))
    one_pass(half, points.split(500))
    for batch in points.split(500)[:5]:
        half.add(batch)
    half.merge()
    again = Clustering(torch.zeros(32, 12), 1.0)
    again.load(*half.state())
    one_pass(again, points.split(500)[5:])
    assert torch.equal(whole.centres, again.centres)
    assert whole.distances == again.distances


def test_no_cluster_stays_empty():
    points = cloud(6)
    centres = torch.cat([points[:10], torch.full((6, 12), 1e3)])
    clusters = Clustering(centres, 1e3)
    one_pass(clusters, [points])
    assert clusters.used == 10
    one_pass(clusters, [points])
    assert clusters.used == 16


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.randn(5, 4), "latents must be at least 8, one for each centre, got 5"),
        (torch.zeros(20, 4), "latents must be finite and not all zero"),
    ],
)
def test_points_that_have_no_clusters_are_refused(points, message):
    with pytest.raises(ValueError, match=message):
        first_centres(points, 8, 0)


def test_a_point_far_beyond_all_others_is_refused_and_does_not_overflow():
    clusters = first_centres(torch.randn(100, 4), 8, 0)
    with pytest.raises(ValueError, match="latents must be finite and of one range, got one of 1e"):
        clusters.add(torch.full((1, 4), 1e6))
    with pytest.raises(ValueError, match="got one of nan"):
        clusters.add(torch.full((1, 4), torch.nan))
