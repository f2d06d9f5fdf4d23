"""The values that flow through imtok, one dataclass per stage.

The shape alphabet, used in every signature and every einops pattern:

===========  ==========================================================
``b``        images in a batch
``c h w``    channels, height and width of an image, in pixels
``n``        latents per image
``t``        tokens per image (``t = n`` except for multi-scale residual)
``d``        width of a latent
``g``        slots per token, each with a vocabulary of its own
``v``        entries of one slot's vocabulary
``l``        rows of text features per image
===========  ==========================================================

Images are float in ``[-1, 1]`` inside imtok and uint8 at its edges.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from jaxtyping import Bool, Float, Int64, Real
from torch import Tensor


class Loss(NamedTuple):
    """A named term of an objective: its textbook value and its factor in the total."""

    value: Float[Tensor, ""]
    weight: float


@dataclass(frozen=True)
class Condition:
    """What is known of each image besides its pixels. A kind that the tokenizer's condition does not give is None.

    Attributes:
        text: Features of its text, a row for each of the ``l`` text tokens.
        mask: True where a row of ``text`` says something; an image without any text has no such row. None = all do.
        label: Class index, -1 where there is none.
        quality: Wanted quality, in the unit of the part that reads it.
        tokens: Ids of the image by another tokenizer, which only a prior reads.

    Example:
        >>> import torch
        >>> condition = Condition(label=torch.tensor([3, 5]))
        >>> condition.rows(slice(1, 2)).label, condition.repeat(2).label
        (tensor([5]), tensor([3, 3, 5, 5]))
    """

    text: Float[Tensor, "b l c"] | None = None
    mask: Bool[Tensor, "b l"] | None = None
    label: Int64[Tensor, " b"] | None = None
    quality: Float[Tensor, " b"] | None = None
    tokens: Int64[Tensor, "b t g"] | None = None

    def rows(self, which: slice | Int64[Tensor, " some"]) -> "Condition":
        """The condition of some of the images."""
        return self._each(lambda value: value[which])

    def repeat(self, times: int) -> "Condition":
        """The condition of a batch in which every image comes so many times, one after the other."""
        return self._each(lambda value: value.repeat_interleave(times, 0))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Condition":
        return Condition(**{name: change(value) for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True)
class Latents:
    """What an encoder returns.

    Attributes:
        values: Continuous latents, a row each.
        keep: True where a latent is to be transmitted, from an encoder that sets a budget; None = all are.

    Example:
        >>> import torch
        >>> latents = Latents(torch.zeros(1, 16, 4))
        >>> latents.values.shape, latents.keep
        (torch.Size([1, 16, 4]), None)
    """

    values: Float[Tensor, "b n d"]
    keep: Bool[Tensor, "b n"] | None = None


@dataclass(frozen=True)
class Quantized:
    """What a quantizer returns.

    Attributes:
        latents: Quantized latents. Bit for bit what ``Quantizer.decode(ids)`` returns, or with noise in training of a
            quantizer that is ``noisy``; gradients reach the encoder through them.
        ids: Token ids in ``[0, vocabulary of the slot)``. Slot 0 stands for the first channels; inside a slot,
            channel 0 is the least significant digit.
        keep: True where a latent is transmitted; None for fixed-length tokenizers. Where it is False, latents
            and ids are zero.
        losses: Auxiliary terms by name.
        stats: Codebook statistics by name: detached sums over tokens, so that micro-batches and ranks add up; and drawn
            tokens, of which the greatest keys stay (``imtok.quantizers.statistics``).
            ``Quantizer.update`` takes them.
        encoded: What was quantized: the encoder's latents, as wide as the quantizer takes them; None where nobody noted
            them.
    """

    latents: Float[Tensor, "b n d"]
    ids: Int64[Tensor, "b t g"]
    keep: Bool[Tensor, "b n"] | None = None
    losses: dict[str, Loss] = field(default_factory=dict)
    stats: dict[str, Tensor] = field(default_factory=dict)
    encoded: Float[Tensor, "b _ _"] | None = None

    def first(self, length: int) -> "Quantized":
        """The first so many tokens of each image."""
        keep, encoded = self.keep, self.encoded
        return replace(
            self,
            latents=self.latents[:, :length],
            ids=self.ids[:, :length],
            keep=None if keep is None else keep[:, :length],
            encoded=None if encoded is None else encoded[:, :length],
        )


@dataclass(frozen=True)
class Tokens:
    """An image as a generator sees it.

    Attributes:
        ids: Token ids, one column per slot.
        keep: True where a latent is transmitted; None for fixed-length tokenizers.
    """

    ids: Int64[Tensor, "b t g"]
    keep: Bool[Tensor, "b n"] | None = None

    def first(self, length: int) -> "Tokens":
        """The first so many tokens of each image."""
        return Tokens(self.ids[:, :length], None if self.keep is None else self.keep[:, :length])


@dataclass(frozen=True)
class Reconstruction:
    """What ``Tokenizer.forward`` returns: the image and how it got there.

    Attributes:
        image: In ``[-1, 1]`` up to overshoot.
        quantized: What the quantizer (and the regulariser, in training) made of the latents.
        taps: Outputs of the sub-modules that were asked for, by module name.
    """

    image: Float[Tensor, "b c h w"]
    quantized: Quantized
    taps: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class StepOutput:
    """What a training step shows to the critic, to pictures and to code counts.

    Attributes:
        target: The image to be reconstructed, in ``[-1, 1]``.
        image: The reconstruction, in ``[-1, 1]`` up to overshoot; None from objectives that make none.
        quantized: The codes that it was decoded from.
    """

    target: Float[Tensor, "b c h w"]
    image: Float[Tensor, "b c h w"] | None
    quantized: Quantized


@dataclass(frozen=True)
class Losses:
    """What an objective returns for one micro-batch.

    Attributes:
        total: The differentiated scalar: the sum of weight times value.
        terms: Every term by name, for the log.
        shown: What the step produced.
        numbers: Scalars by name that are logged and are no part of the total.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Loss]
    shown: StepOutput
    numbers: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class NetLosses:
    """What an objective returns for one of its further nets, such as a critic, on one micro-batch.

    Attributes:
        total: The differentiated scalar: the sum of weight times value.
        terms: Every term by name, for the log.
        numbers: Scalars by name that are logged and are no part of the total.
        stats: Detached sums, so that micro-batches and ranks add up. ``Objective.net_update`` takes them.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Loss]
    numbers: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Tensor] = field(default_factory=dict)


CriticLosses = NetLosses  # what those of the net "critic" are called


@dataclass(frozen=True)
class Batch:
    """What a data loader yields.

    Attributes:
        image: RGB pixels, uint8.
        label: Class index, -1 where there is none.
        index: Position of each sample in its data set; of a stream, epoch times shards plus shard.
        key: Name of each sample: a relative path, or ``shard:member`` stem.
        bad: ``key: reason`` for every sample that could not be decoded. In training another sample stands in
            its place; in evaluation and export it is left out of ``image``.
        source: What each image is to be made from, where that is not the image itself: ids ``b t g`` (int64), latents
            ``b n d`` (float) or other images ``b 3 h w`` (uint8).
        caption: Text about each image, "" where there is none; empty where no image has one or nobody asked.
        texts: All texts about each image that has several; empty where none has or nobody asked.
        boxes: Of objects in each image: left, top, right and bottom in its pixels, float64; empty where nobody asked.
    """

    image: Real[Tensor, "b c h w"]
    label: Int64[Tensor, " b"]
    index: Int64[Tensor, " b"]
    key: list[str]
    bad: list[str] = field(default_factory=list)
    source: Tensor | None = None
    caption: list[str] = field(default_factory=list)
    texts: list[tuple[str, ...]] = field(default_factory=list)
    boxes: list[Tensor] = field(default_factory=list)

    def pin_memory(self) -> "Batch":
        """The same in memory that a GPU reads while it computes; torch's loader asks for it before the batch is due."""
        source = None if self.source is None else self.source.pin_memory()
        return replace(self, image=self.image.pin_memory(), label=self.label.pin_memory(), source=source)
