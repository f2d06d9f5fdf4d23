"""The contract that every condition keeps."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from imtok.errors import InputError
from imtok.types import Condition

NO_LABEL = -1  # of an image that is of no class


class Conditioner(nn.Module, ABC):
    """Says what encoder and decoder are told of each image besides its pixels. It is saved with the tokenizer.

    It sees captions and labels and nothing else. A store of tokens holds both, so the decoder is told the same of an
    image as the encoder was.

    Args:
        drop: Share of the images of a training batch whose captions it does not see, so that the tokenizer learns what
            an image without a text is, and a generator can be guided. Torch's generator draws them, which each step of
            training seeds.

    Attributes:
        reads: What it looks at: "caption", "label", both or neither; or "tokens" of another tokenizer.
        gives: The kinds of :class:`Condition` that it makes: "text", "label", "quality", "tokens".
        text_dim: Width of the text features; None = it gives none.
        text_length: Rows of text features per image; None = it gives none.
        classes: Number of classes of the labels; None = it gives none.
        every_label: A label that all images get in place of their own; None = their own.
        every_quality: A wanted quality for all images; None = what the condition says by itself.
        example_caption: A caption that it can read, for trying things out.
    """

    reads: tuple[Literal["caption", "label", "tokens"], ...] = ()
    gives: tuple[Literal["text", "label", "quality", "tokens"], ...] = ()
    text_dim: int | None = None
    text_length: int | None = None
    classes: int | None = None
    every_label: int | None = None
    every_quality: float | None = None
    example_caption: ClassVar[str] = "a picture"

    def __init__(self, drop: float = 0.0) -> None:
        super().__init__()
        if not 0 <= drop < 1:
            raise ValueError(f"drop must lie in [0, 1), got {drop}")
        self.drop = drop

    @abstractmethod
    def forward(self, captions: Sequence[str], labels: Int64[Tensor, " b"]) -> Condition:
        """The condition of ``b`` images.

        Args:
            captions: Text about each image, "" where there is none.
            labels: Class of each image, -1 where there is none; on the device where the condition is wanted.

        Raises:
            InputError: If a label or a caption cannot be used.
        """

    def make(self, captions: Sequence[str], labels: Int64[Tensor, " b"]) -> Condition:
        """The condition of ``b`` images, with the label and the quality that were set for all of them.

        Raises:
            InputError: As ``forward``, or if there is not a caption for each image.
        """
        if len(captions) != len(labels):
            raise InputError(f"captions must be one for each of {len(labels)} images, got {len(captions)}")
        if self.every_label is not None:
            labels = torch.full_like(labels, self.every_label)
        if self.drop and self.training:
            dropped = (torch.rand(len(captions)) < self.drop).tolist()
            captions = ["" if drop else caption for caption, drop in zip(captions, dropped, strict=True)]
        made = self(captions, labels)
        if self.every_quality is not None:
            made = replace(made, quality=torch.full((len(labels),), self.every_quality, device=labels.device))
        return made

    def lacking(self, captions: Sequence[str], labels: Int64[Tensor, " b"]) -> dict[int, str]:
        """The images that lack something that is read, each with the words for it: "caption", "label"."""
        found = dict[int, str]()
        own = labels.tolist() if "label" in self.reads and self.every_label is None else []
        found |= {row: "label" for row, label in enumerate(own) if label == NO_LABEL}
        if "caption" in self.reads:
            found |= {row: "caption" for row, caption in enumerate(captions) if not caption.strip()}
        return found

    def require_nothing(self) -> None:
        """Raise InputError if the condition cannot be made without a word about the images."""
        if self.reads:
            raise InputError(
                f"this tokenizer is told the {' and '.join(self.gives)} of each image, and got none; give "
                "condition=tokenizer.condition_for(number_of_images, captions, labels)"
            )

    def example(self, images: int, device: torch.device) -> Condition:
        """What encoder and decoder are told of some image, for tracing them; it looks for no weights."""
        return self.make([self.example_caption] * images, torch.zeros(images, dtype=torch.int64, device=device))

    def prepare(self) -> None:
        """Find and read what is not saved with the tokenizer, before any work is spent.

        Raises:
            InputError: If it cannot be had.
        """

    @property
    def stored(self) -> dict[str, Any]:
        """Settings as they are stored with the tokenizer, where they are not those that it was built with."""
        return {}

    @property
    def sizes(self) -> dict[str, Any]:
        """What the builder tells encoder and decoder of it, by the names of their arguments."""
        named = {"text_dim": self.text_dim, "text_length": self.text_length, "classes": self.classes}
        return {name: value for name, value in named.items() if value is not None}


def example_caption(condition: Conditioner | None) -> str:
    """A caption that a condition can read; any where there is none."""
    return Conditioner.example_caption if condition is None else condition.example_caption


def pinned(config: dict[str, Any], condition: Conditioner | None) -> dict[str, Any]:
    """A tokenizer's config in which the condition's section says what is stored of it, and no path of this machine."""
    if condition is None or not condition.stored:
        return config
    return {**config, "condition": {**config["condition"], **condition.stored}}
