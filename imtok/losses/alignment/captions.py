"""Contrast of images with their captions, by which tokens come to mean something (CLIP, arXiv 2103.00020)."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.conditions.base import NO_LABEL, Conditioner
from imtok.losses.alignment.alignment import LATENTS, kept_mean
from imtok.losses.alignment.base import AlignmentLoss
from imtok.losses.alignment.distances import Contrast
from imtok.losses.alignment.heads import Head
from imtok.types import Quantized

Join = Literal["linear", "none"]


class CaptionContrast(AlignmentLoss):
    """Each image and its caption tell each other among all images and captions of the global batch.

    The features of an image come from one place of the tokenizer, as in ``Alignment``: a head maps them, and their mean
    over tokens stands for the image. The mean over the rows of a text's features, mapped linearly to the same width
    where ``join`` says so, stands for the caption. The text tower is a part of the loss: the tokenizer that is saved
    does not hold it, and is told nothing. One that learns, learns with the tokenizer. An image without a caption takes
    no part, neither as right nor as wrong answer.

    Args:
        text: The text tower: any condition that makes features of captions.
        head: Trained net on the image's features, which gives the common width.
        loss: The contrast.
        source: "encoder" (latents before the quantizer), "quantizer" (after it), or any sub-module of the tokenizer.
        weight: Factor in the total.
        tokens: First token and the one after the last: a piece of the sequence; None = all.
        join: "linear" = a learned map of the text's features; "none" = as they are, for a tower that has such a map.

    Raises:
        ValueError: If ``text`` makes no features of captions or, without a map, of another width than the head's, or
            ``tokens`` is no span, or there is no such ``join``; in ``forward``, if the source gives no tokens.
        InputError: If the weights of the text tower are missing.

    Example:
        >>> from imtok.conditions.words import Words
        >>> from imtok.losses.alignment.contrasts import LearnedContrastive
        >>> from imtok.losses.alignment.heads import MLPHead
        >>> loss = CaptionContrast(Words(dim=8), MLPHead(6, 16, layers=1), LearnedContrastive())
        >>> codes = torch.randn(2, 4, 6)
        >>> quantized = Quantized(codes, torch.zeros(2, 4, 1, dtype=torch.long))
        >>> loss(torch.zeros(2, 3, 8, 8), quantized, {"quantizer": codes}, 0, ["a fox", "a jar"]) > 0
        tensor(True)
    """

    reads = ("caption",)

    def __init__(
        self,
        text: Conditioner,
        head: Head,
        loss: Contrast,
        source: str = "quantizer",
        weight: float = 1.0,
        tokens: Sequence[int] | None = None,
        join: Join = "linear",
    ) -> None:
        super().__init__(weight)
        if text.text_dim is None or "caption" not in text.reads:
            raise ValueError(f"text must be a condition that makes features of captions, got {type(text).__name__}")
        if tokens is not None and (len(tokens) != 2 or not 0 <= tokens[0] < tokens[1]):
            raise ValueError(f"tokens must be a first one and the one after the last, got {list(tokens)}")
        if join not in get_args(Join):
            raise ValueError(f"join must be linear or none, got {join!r}")
        if join == "none" and text.text_dim != head.out_dim:
            raise ValueError(
                f"head.out_dim must be {text.text_dim}, the width of the text's features, got {head.out_dim}"
            )
        text.prepare()
        self.text, self.head, self.distance = text, head, loss
        self.project = nn.Linear(text.text_dim, head.out_dim, bias=False) if join == "linear" else nn.Identity()
        self.source = source
        self.needs = (source,)
        self.tokens = None if tokens is None else slice(*tokens)

    @override
    def forward(
        self,
        target: Float[Tensor, "b c h w"],
        quantized: Quantized,
        taps: Mapping[str, Tensor],
        step: int,
        captions: Sequence[str] = (),
    ) -> Float[Tensor, ""]:
        """Mean loss over the images of all ranks that have a caption; 0 where none has.

        Args:
            target: The originals.
            quantized: Their codes, as the decoder saw them.
            taps: What ``source`` gave.
            step: Optimiser steps taken so far.
            captions: Of each image, "" where there is none; () = there is none at all.
        """
        images = self._of_images(taps[self.source], quantized.keep)
        nowhere = torch.full((len(images),), NO_LABEL, device=images.device)
        told = self.text.make(list(captions) or [""] * len(images), nowhere)
        assert told.text is not None  # of a text tower
        texts = self.project(kept_mean(told.text.to(images.dtype), told.mask))
        present = None if told.mask is None else told.mask.any(1)
        values = self.distance(images, texts, present)
        if len(values):
            return values.mean()
        idle = [images, texts, *self.distance.parameters()]  # ranks wait for the gradient of every parameter
        return 0 * torch.stack([value.sum().to(texts.dtype) for value in idle]).sum()

    def _of_images(self, features: Tensor, keep: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b k"]:
        """One feature of each image."""
        if features.ndim == 4:
            features = features.flatten(2).mT
        if features.ndim != 3:
            raise ValueError(f"{self.source} must give tokens or a map to be contrasted, got {tuple(features.shape)}")
        if self.source not in LATENTS or keep is None or keep.shape[1] != features.shape[1]:
            keep = None
        if self.tokens is not None:
            features, keep = features[:, self.tokens], None if keep is None else keep[:, self.tokens]
        mapped = self.head(features, keep)
        return kept_mean(mapped, keep if self.head.per_token else None)
