"""Vectors of all images, in the order of the data set, for the metrics that need more of them than their sums."""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from imtok.distributed import gather_rows, gather_values, world_size
from imtok.measures.frechet import check_features


class RowMetric(Metric):
    """Keeps a vector per image and puts them in the order of their index, whatever batches and ranks they came in.

    An image that comes twice, as a padding sampler sends it, counts once. Ranks may bring unequal numbers, or none.

    Args:
        dim: Length of a vector.
        **settings: Of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If ``dim`` is not positive; in ``update``, if vectors have another length or are not finite, or the
            index is missing with several processes.
    """

    full_state_update = False
    rows: list[Tensor]
    index: list[Tensor]

    def __init__(self, dim: int, **settings: Any) -> None:
        # torchmetrics gathers lists update by update, which hangs where ranks had unequal numbers of them
        super().__init__(**{"sync_on_compute": False, **settings})
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.dim = dim
        self.add_state("rows", [], dist_reduce_fx=None)
        self.add_state("index", [], dist_reduce_fx=None)

    @override
    def update(self, features: Float[Tensor, "b f"], index: Int64[Tensor, " b"] | None = None) -> None:
        """Count images in.

        Args:
            features: A vector per image.
            index: Position of each image in its data set; None = as they come, in a single process.
        """
        check_features(features, self.dim)
        if index is None:
            if world_size() > 1:
                raise ValueError("index must be given where several processes measure together, got None")
            index = torch.arange(len(features)) + sum(len(part) for part in self.index)
        self.rows.append(features.detach().clone())
        self.index.append(index.to(features.device))

    def all_rows(self) -> Float[Tensor, "n f"]:
        """The vectors of all ranks, each image once, by index."""
        nothing = torch.zeros(0, self.dim, device=self.device)
        rows = _gather(torch.cat(self.rows) if self.rows else nothing)
        index = _gather(torch.cat(self.index) if self.index else nothing[:, 0].long())
        order = index.argsort(stable=True)
        index, rows = index[order], rows[order]
        first = torch.ones_like(index, dtype=torch.bool)
        first[1:] = index[1:] != index[:-1]
        return rows[first]


class FeatureRows(RowMetric):
    """The features of a set of images: one side of :class:`KID` or :class:`PrecisionRecall`.

    Args:
        dim: Length of a feature vector.
        **settings: Of :class:`torchmetrics.Metric`.

    Example:
        >>> rows = FeatureRows(1)
        >>> rows.update(torch.tensor([[3.0], [1.0]]), index=torch.tensor([2, 0]))
        >>> rows.update(torch.tensor([[2.0], [3.0]]), index=torch.tensor([1, 2]))
        >>> rows.compute().flatten().tolist()
        [1.0, 2.0, 3.0]
    """

    @override
    def compute(self) -> Float[Tensor, "n f"]:
        """A row per image, by index."""
        return self.all_rows()


def _gather(rows: Tensor) -> Tensor:
    """Rows of all ranks, which may bring unequal numbers of them."""
    facts = gather_values((len(rows), str(rows.dtype)))
    if world_size() == 1 or not sum(count for count, _ in facts):
        return rows
    dtype = next(name for count, name in facts if count)  # a rank without rows does not know their precision
    rows = rows.to(getattr(torch, dtype.removeprefix("torch.")))
    most = max(count for count, _ in facts)
    padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
    gathered = gather_rows(padded).unflatten(0, (world_size(), most))
    return torch.cat([part[:count] for part, (count, _) in zip(gathered, facts, strict=True)])
