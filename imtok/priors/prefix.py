"""What is told of an image, as the first vectors of a sequence."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.types import Condition


class Prefix(nn.Module):
    """Vectors for the label, for rows of text and for other tokens, and a start vector, always there and the last.

    Args:
        width: Of the vectors. Its builder says it, as all that follow but ``drop``.
        classes: Of the labels; None = there is none.
        text_dim: Width of the text features; None = there are none.
        text_length: Rows of text.
        other_tokens: Number of tokens of another tokenizer; None = no tokens.
        other_vocab_sizes: Number of ids of each slot of these tokens.
        drop: Share of the images of a training batch of which nothing is told. Torch's generator draws them.

    Raises:
        ValueError: If ``drop`` is out of range, or, in ``forward``, if what is told is not what was announced.

    Example:
        >>> tokens, there = Prefix(width=8, classes=10)(Condition(label=torch.tensor([3, -1])), 2)
        >>> tokens.shape, there.tolist()
        (torch.Size([2, 2, 8]), [[True, True], [True, True]])
    """

    def __init__(
        self,
        width: int,
        classes: int | None = None,
        text_dim: int | None = None,
        text_length: int | None = None,
        other_tokens: int | None = None,
        other_vocab_sizes: Sequence[int] = (),
        drop: float = 0.1,
    ) -> None:
        super().__init__()
        if not 0 <= drop < 1:
            raise ValueError(f"drop must lie in [0, 1), got {drop}")
        self.drop = drop
        self.classes = classes
        self.text_length = text_length or 0
        self.start = nn.Parameter(torch.randn(width) * 0.02)
        self.label = nn.Embedding(classes + 1, width) if classes is not None else None  # the last = no label
        self.text = nn.Linear(text_dim, width) if text_dim is not None else None
        self.rows = nn.Parameter(torch.randn(self.text_length, width) * 0.02) if text_dim is not None else None
        self.others = nn.ModuleList(nn.Embedding(size, width) for size in other_vocab_sizes)
        self.places = nn.Parameter(torch.randn(other_tokens, width) * 0.02) if other_tokens is not None else None

    @property
    def told(self) -> bool:
        """Whether anything is told at all."""
        return self.label is not None or self.text is not None or self.places is not None

    @property
    def length(self) -> int:
        """Vectors."""
        others = 0 if self.places is None else len(self.places)
        return 1 + (self.label is not None) + self.text_length * (self.text is not None) + others

    @override
    def forward(
        self, condition: Condition | None, images: int, nothing: bool = False
    ) -> tuple[Float[Tensor, "b p d"], Bool[Tensor, "b p"]]:
        """The vectors, and which of them can be seen.

        Args:
            condition: What is told; None = nothing.
            images: How many there are.
            nothing: Leave out what is told, of all images.
        """
        device = self.start.device
        hidden = torch.full((images,), nothing, device=device)
        if self.training and self.drop and self.told:
            hidden = hidden | (torch.rand(images, device=device) < self.drop)
        condition = condition or Condition()
        vectors, there = list[Tensor](), list[Tensor]()
        if self.label is not None and self.classes is not None:
            label = torch.full((images,), -1, device=device) if condition.label is None else condition.label
            label = label.masked_fill(hidden | (label < 0), self.classes)
            vectors.append(self.label(label)[:, None])
            there.append(torch.ones(images, 1, dtype=torch.bool, device=device))
        if self.text is not None and self.rows is not None:
            if condition.text is None or condition.text.shape[1] != self.text_length:
                raise ValueError(f"the condition must give {self.text_length} rows of text, got {_shape(condition)}")
            vectors.append(self.text(condition.text.to(self.text.weight.dtype)) + self.rows)
            seen = condition.mask if condition.mask is not None else torch.ones_like(condition.text[..., 0]).bool()
            there.append(seen & ~hidden[:, None])
        if self.places is not None:
            if condition.tokens is None or condition.tokens.shape[1:] != (len(self.places), len(self.others)):
                raise ValueError(
                    f"the condition must give {len(self.places)} tokens of another tokenizer for each image"
                )
            slots = zip(self.others, condition.tokens.unbind(-1), strict=True)
            vectors.append(torch.stack([table(ids) for table, ids in slots]).sum(0) + self.places)
            there.append(~hidden[:, None].expand(-1, len(self.places)))
        vectors.append(self.start.expand(images, 1, -1))
        there.append(torch.ones(images, 1, dtype=torch.bool, device=device))
        return torch.cat(vectors, 1), torch.cat(there, 1)


def _shape(condition: Condition) -> str:
    return "none" if condition.text is None else str(tuple(condition.text.shape))
