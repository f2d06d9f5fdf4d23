"""k-means over points that come in batches, on any number of ranks, with the same centres to the last bit."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from imtok.distributed import gather_values, sum_over_ranks
from imtok.quantizers.search import nearest

_BITS = 30  # of the largest value of the first points, above the unit that sums count in
_ROOM = 2**6  # how many times larger than that a value may be: 2^27 such points still fit into 63 bits
_APART = 1 / 1024  # by how much of themselves the halves of a cluster that is split differ (as in faiss)


class Clustering:
    """Centres, and the sums of the points nearest to each.

    Centres move at the end of a pass (Lloyd, 1982), so that the squared distance never grows but where clusters are
    split. In between only sums are kept.

    Sums are whole numbers of a small unit. Their order therefore does not matter: batches may come from one rank or
    from several, and centres are the same bit for bit.

    Args:
        centres: Where they begin: what :func:`first_centres` gives.
        largest: The greatest absolute value of the points that these were made of, above 0.

    Attributes:
        centres: Where they are now.
        passes: How many passes have ended.
        distances: Mean squared distance of the points to the centres in each pass, over points, summed over channels.
        used: How many centres were nearest to a point in the last pass.
        points: How many points that pass had.
    """

    def __init__(self, centres: Float[Tensor, "v d"], largest: float) -> None:
        self.centres = centres.float()
        self.exponent = math.frexp(largest)[1] - _BITS  # a power of two: what it scales loses nothing
        self.passes, self.used, self.points = 0, 0, 0
        self.distances = list[float]()
        self._distance = 0  # of this pass, in squared units: Python's whole numbers have no end
        self._sums = torch.zeros(centres.shape, dtype=torch.long)
        self._counts = torch.zeros(len(centres), dtype=torch.long)
        self._fresh()

    @torch.no_grad()
    def add(self, points: Float[Tensor, "m d"]) -> None:
        """Count points of this rank.

        Raises:
            ValueError: If one is far larger than all that the first centres were made of.
        """
        exact = points.double()
        if len(points) and not exact.abs().max() < math.ldexp(_ROOM, self.exponent + _BITS):
            raise ValueError(
                f"latents must be finite and of one range, got one of {exact.abs().max():.3g} after many below "
                f"{math.ldexp(1.0, self.exponent + _BITS):.3g}"
            )
        ids = nearest(points.float(), self.centres)
        distance = (exact - self.centres[ids].double()).square().sum().item()
        self._own_distance += round(math.ldexp(distance, -2 * self.exponent))
        scaled = (exact * math.ldexp(1.0, -self.exponent)).round().long()
        self._own_sums.index_add_(0, ids, scaled)
        self._own_counts += torch.bincount(ids, minlength=len(self.centres))

    def merge(self) -> None:
        """Put together what all ranks have counted since the last time; every rank calls it."""
        self._sums += sum_over_ranks(self._own_sums.cpu())
        self._counts += sum_over_ranks(self._own_counts.cpu())
        self._distance += sum(gather_values(self._own_distance))
        self._fresh()

    def end_pass(self) -> None:
        """Move the centres, split the largest clusters for those without a point, and begin again to count."""
        self.points, self.used = int(self._counts.sum()), int((self._counts > 0).sum())
        if not self.points:
            raise ValueError("latents must be at least one, got none")
        self._move()
        self._split()
        self.distances.append(math.ldexp(self._distance / self.points, 2 * self.exponent))
        self.passes += 1
        self._sums, self._counts, self._distance = self._sums * 0, self._counts * 0, 0

    def settle(self, points: Float[Tensor, "m d"], passes: int) -> None:
        """Passes over points that this process has, whatever others do."""
        for _ in range(passes):
            self.add(points)
            self._sums, self._counts, self._distance = self._own_sums.cpu(), self._own_counts.cpu(), self._own_distance
            self._fresh()
            self.end_pass()

    def state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """All that going on needs, between two merges: tensors, and texts."""
        texts = {name: repr(getattr(self, name)) for name in ("exponent", "passes", "used", "points", "_distance")}
        texts["distances"] = " ".join(map(float.hex, self.distances))
        return {"centres": self.centres.cpu(), "sums": self._sums, "counts": self._counts}, texts

    def load(self, tensors: dict[str, Tensor], texts: dict[str, str]) -> None:
        """Go on from what :meth:`state` gave."""
        for name in ("exponent", "passes", "used", "points", "_distance"):
            setattr(self, name, int(texts[name]))
        self.distances = [float.fromhex(word) for word in texts["distances"].split()]
        self.centres = tensors["centres"].to(self.centres.device)
        self._sums, self._counts = tensors["sums"].clone(), tensors["counts"].clone()
        self._fresh()

    def _fresh(self) -> None:
        self._own_sums = torch.zeros(self.centres.shape, dtype=torch.long, device=self.centres.device)
        self._own_counts = torch.zeros(len(self.centres), dtype=torch.long, device=self.centres.device)
        self._own_distance = 0

    def _move(self) -> None:
        means = self._sums.double() / self._counts.clamp_min(1)[:, None] * math.ldexp(1.0, self.exponent)
        moved = means.float().to(self.centres.device)
        self.centres = torch.where((self._counts > 0)[:, None].to(moved.device), moved, self.centres)

    def _split(self) -> None:
        """Each empty centre takes half of the cluster that is the largest then, as faiss does it."""
        counts, centres = self._counts.clone(), self.centres.clone()
        sign = torch.ones(centres.shape[1], device=centres.device)
        sign[1::2] = -1
        for empty in (counts == 0).nonzero()[:, 0].tolist():
            largest = int(counts.argmax())
            if counts[largest] < 2:
                break
            centres[empty] = centres[largest] * (1 + _APART * sign)
            centres[largest] = centres[largest] * (1 - _APART * sign)
            counts[empty] = counts[largest] // 2
            counts[largest] -= counts[empty]
        self.centres = centres


@torch.no_grad()
def first_centres(points: Float[Tensor, "m d"], count: int, seed: int, rounds: int = 10) -> Clustering:
    """Greedy k-means++ (Arthur and Vassilvitskii, 2007; trials as in scikit-learn), then passes over the points.

    Args:
        points: At least ``count``, on the device to compute on.
        count: Number of centres.
        seed: Of what is drawn.
        rounds: Passes over the points.

    Raises:
        ValueError: If there are fewer points than centres, or they are all zero or not finite.
    """
    points, generator = points.float(), torch.Generator().manual_seed(seed)
    if len(points) < count:
        raise ValueError(f"latents must be at least {count}, one for each centre, got {len(points)}")
    largest = points.abs().max().item()
    if not 0 < largest < math.inf:
        raise ValueError(f"latents must be finite and not all zero, got a largest value of {largest}")
    trials = 2 + int(math.log(count))
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    nearest_so_far = _squared(points, points[chosen])[:, 0]
    for _ in range(count - 1):
        weights = nearest_so_far.double().cumsum(0)
        drawn = torch.rand(trials, generator=generator, dtype=torch.float64).to(points.device) * weights[-1]
        places = torch.searchsorted(weights, drawn).clamp_max(len(points) - 1)
        closer = torch.minimum(_squared(points, points[places]), nearest_so_far[:, None])
        best = int(closer.sum(0).argmin())
        chosen.append(int(places[best]))
        nearest_so_far = closer[:, best]
    found = Clustering(points[chosen], largest)
    found.settle(points, rounds)
    return Clustering(found.centres, largest)


def _squared(points: Float[Tensor, "m d"], others: Float[Tensor, "k d"]) -> Float[Tensor, "m k"]:
    return (points.square().sum(1, keepdim=True) - 2 * points @ others.T + others.square().sum(1)).clamp_min(0)
