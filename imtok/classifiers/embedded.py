"""Tokens as the vectors that a classifier reads, and what the codebook of a store makes of ids."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from imtok.export.codebook import read_codebook
from imtok.priors.rows import TokenRows

_MEASURED = 1024  # rows, evenly over a store, that give mean and deviation of the vectors


@dataclass(frozen=True)
class Embedded:
    """The tokens of a batch as vectors, and what a classifier is to say of each image.

    Attributes:
        vectors: What the codebook says of each token, of mean 0 and variance 1 in each channel over the store.
        seen: Which tokens there are.
        targets: The share of each class in an image.
        grid: Rows and columns of the tokens; one row of a tokenizer without a grid.
    """

    vectors: Float[Tensor, "b n d"]
    seen: Bool[Tensor, "b n"]
    targets: Float[Tensor, "b k"]
    grid: tuple[int, int]


class CodebookEmbedding(nn.Module):
    """The rows of a codebook that ids name, added up over the slots. Nothing of it learns.

    Args:
        sizes: Number of ids of each slot.
        dim: Width of the vectors.

    Example:
        >>> CodebookEmbedding([16, 8], dim=4)(torch.zeros(2, 5, 2, dtype=torch.int64)).shape
        torch.Size([2, 5, 4])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, sizes: list[int], dim: int) -> None:
        super().__init__()
        for slot, size in enumerate(sizes):
            self.register_buffer(f"slot_{slot}", torch.zeros(size, dim))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))

    def read(self, rows: TokenRows) -> None:
        """Take the codebook of a store, and measure mean and deviation of its vectors.

        Raises:
            InputError: If the store has no codebook, or a damaged one.
        """
        for slot, table in enumerate(read_codebook(rows.store.folder / "codebook.safetensors")):
            getattr(self, f"slot_{slot}").copy_(table)
        found = list[Tensor]()
        for batch in rows.some(max(1, _MEASURED // rows.store.views)).batches(256):
            vectors, keep = self(batch.tokens.ids), batch.tokens.keep
            found.append(vectors.flatten(0, 1) if keep is None else vectors[keep])
        deviation, self.mean = torch.std_mean(torch.cat(found), 0, correction=0)
        self.deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))

    def same_rows(self, other: "CodebookEmbedding") -> bool:
        """Whether another one has the same codebook."""
        own, others = ({k: v for k, v in one.state_dict().items() if k.startswith("slot")} for one in (self, other))
        return own.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in own.items())

    @override
    def forward(self, ids: Int64[Tensor, "b n g"]) -> Float[Tensor, "b n d"]:
        rows = [getattr(self, f"slot_{slot}")[column] for slot, column in enumerate(ids.unbind(-1))]
        return (torch.stack(rows).sum(0) - self.mean) / self.deviation


def grid_of(tokens: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the grid of the shape of an image that so many tokens make, or else one row.

    Example:
        >>> grid_of(64, (32, 32)), grid_of(32, (64, 256)), grid_of(32, (64, 64))
        ((8, 8), (1, 32), (1, 32))
        >>> grid_of(36, (64, 256))
        (3, 12)
    """
    height, width = image_size
    rows = math.isqrt(tokens * height // width)
    columns = tokens // rows if rows else 0
    return (rows, columns) if rows * columns == tokens and rows * width == columns * height else (1, tokens)
