"""What quantizers with one table of codes have in common."""

from abc import abstractmethod
from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import override

from imtok.quantizers.base import Quantizer
from imtok.quantizers.estimators import DiVeQ, Estimator, Rotation, StraightThrough
from imtok.quantizers.search import nearest, nearest_codes
from imtok.quantizers.soft_estimators import GumbelSoftmax, Softmax
from imtok.types import Quantized

ESTIMATORS: dict[str, type[Estimator]] = {
    "straight_through": StraightThrough,
    "rotation": Rotation,
    "diveq": DiVeQ,
    "softmax": Softmax,
    "gumbel_softmax": GumbelSoftmax,
}
Given = str | Mapping[str, Any]  # a name, or a mapping with the name and its settings


class TableQuantizer(Quantizer):
    """A quantizer of one slot whose latents are rows of :meth:`table`.

    Args:
        dim: Width of latents and codes.
        codebook_size: Number of codes.
        loss_weights: None may be negative.
        estimator: How a gradient passes the choice of a code (:func:`find_estimator`).

    Raises:
        ValueError: For a size or weight out of range, or an unknown estimator.

    Attributes:
        moves_codes: Whether the gradient of the latents that ``forward`` returns reaches the codes.
    """

    def __init__(
        self, dim: int, codebook_size: int, loss_weights: tuple[float, ...], estimator: Given = "straight_through"
    ) -> None:
        super().__init__()
        if dim < 1 or codebook_size < 1:
            raise ValueError(f"dim and codebook_size must be at least 1, got {dim} and {codebook_size}")
        if min(loss_weights) < 0:
            raise ValueError(f"loss weights must not be negative, got {', '.join(map(str, loss_weights))}")
        self.dim = dim
        self.vocab_sizes = (codebook_size,)
        self.estimate = find_estimator(estimator)
        self.moves_codes = self.estimate.moves_codes

    @abstractmethod
    def table(self) -> Float[Tensor, "v d"]:
        """The codes that decoders see, with gradients to whatever makes them."""

    def choose(self, latents: Float[Tensor, "m d"], table: Float[Tensor, "v d"]) -> Int64[Tensor, " m"]:
        """The code of each latent."""
        return nearest(*self.compared(latents, table))

    def compared(
        self, latents: Float[Tensor, "m d"], table: Float[Tensor, "v d"]
    ) -> tuple[Float[Tensor, "m d"], Float[Tensor, "v d"]]:
        """Latents and codes as distances compare them."""
        return latents, table

    def rows(self, ids: Int64[Tensor, "b n"], table: Float[Tensor, "v d"]) -> Float[Tensor, "b n d"]:
        """Rows of the table, with gradients to what makes them."""
        return F.embedding(ids, table)

    @override
    def decode(self, ids: Int64[Tensor, "b t g"], slots: int | None = None) -> Float[Tensor, "b n d"]:
        codes = F.embedding(ids[..., 0], self.table())
        return codes if slots is None or slots > 0 else codes * 0

    @override
    def codebook(self) -> list[Float[Tensor, "v d"]]:
        return [self.table().detach()]

    @override
    def neighbours(self, ids: Int64[Tensor, "b t g"], count: int) -> Int64[Tensor, "b t g count"]:
        table = self.table()
        return nearest_codes(ids, self.compared(table[:1], table)[1], count)

    @property
    @override
    def stochastic(self) -> bool:
        return self.estimate.draws

    @property
    @override
    def noisy(self) -> bool:
        return self.estimate.noisy


class NearestQuantizer(TableQuantizer):
    """A quantizer of one table that takes the nearest code, unless a search over several tables has chosen another."""

    @abstractmethod
    @override
    def quantize(
        self,
        latents: Float[Tensor, "b n d"],
        keep: Bool[Tensor, "b n"] | None,
        ids: Int64[Tensor, "b n"] | None = None,
    ) -> Quantized:
        """As :meth:`Quantizer.quantize`.

        Args:
            latents: The encoder's latents; zero where they are not kept.
            keep: True = transmitted.
            ids: The codes; None = the nearest ones.
        """


def find_estimator(given: Given) -> Estimator:
    """The estimator of that name; or of a mapping's ``name``, whose other keys are its settings.

    Raises:
        ValueError: If there is none, or a setting is unknown or out of range.
    """
    settings = {"name": given} if isinstance(given, str) else dict(given)
    name = settings.pop("name", None)
    if name not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {name!r}")
    known = list(signature(ESTIMATORS[name]).parameters)
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise ValueError(f"estimator {name} takes {', '.join(known) or 'no setting'}, got {unknown[0]}")
    try:
        return ESTIMATORS[name](**settings)
    except ValueError as error:
        raise ValueError(f"estimator: {error}") from None
