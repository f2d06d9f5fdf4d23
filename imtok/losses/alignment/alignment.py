"""Semantic alignment: features of a tokenizer drawn towards those of a frozen teacher (REPA, arXiv 2410.06940)."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from imtok.distributed import gather_rows
from imtok.losses.alignment.base import AlignmentLoss
from imtok.losses.alignment.distances import Distance, find_distance
from imtok.losses.alignment.heads import Head
from imtok.losses.teachers import TeacherNet
from imtok.types import Quantized

LATENTS = ("encoder", "quantizer")


class Alignment(AlignmentLoss):
    """One teacher, one place of the tokenizer, and how far apart they are.

    What is published as VQ-KD, feature distillation, semantic regularisation, or guidance before and after the
    quantizer differs in what is set here; ``configs/alignment/`` names the settings. The features of a decoder's
    layer learn through everything before it, those of the quantizer through its straight-through estimator. What a
    regulariser changes is not seen at ``quantizer``, which is the code as it was chosen; at a layer of the decoder
    it is.

    Args:
        teacher: The frozen net.
        source: "encoder" (latents before the quantizer), "quantizer" (after it), or the name of any sub-module of
            the tokenizer that gives tokens ``b n d`` or a map ``b d h w`` ("decoder.qformer.blocks.2").
        loss: "cosine", "mse", "contrastive", "symmetric_contrastive", or a ``Distance``.
        weight: Factor in the total.
        feature: "patches" = each token the teacher's feature of its place (the teacher's map is resized to the
            tokens' if it has another size), "summary" = the mean over tokens that of the whole image.
        head: Trained net between the features and the distance; None = they are compared as they are.
        teacher_head: Trained net on the teacher's side (ImageFolder's contrast, where the teacher comes down to the
            width of the codes); only for losses that compare images, since any other is least where both are 0.
        channels: First channel and the one after the last: a branch of a product quantizer; None = all.
        tokens: First token and the one after the last: a piece of the sequence; None = all.
        by_length: Factor of an image's loss with one latent kept, and with all, linear in the number in between;
            None = 1. Counts all latents where nothing is dropped.
        start_step: Optimiser steps before this one have loss 0.
        stop_step: So has this one and those after it; None = there is no end.

    Raises:
        ValueError: If an argument is out of range or widths differ; in ``forward``, if the features have another
            width than the head, or tokens and patches cannot be laid over each other.

    Example:
        >>> from imtok.losses.alignment.heads import MLPHead
        >>> from imtok.losses.teachers import Teacher
        >>> teacher = Teacher("test_vit", weights="random", image_size=32)
        >>> alignment = Alignment(teacher, "quantizer", head=MLPHead(in_dim=8, out_dim=64, width=32))
        >>> latents = torch.randn(2, 4, 8)
        >>> image = torch.zeros(2, 3, 32, 32)
        >>> quantized = Quantized(latents, torch.zeros(2, 4, 1, dtype=torch.long))
        >>> value = alignment(image, quantized, {"quantizer": latents}, step=0)
        >>> 0 < value < 2
        tensor(True)
    """

    def __init__(
        self,
        teacher: TeacherNet,
        source: str = "quantizer",
        loss: str | Distance = "cosine",
        weight: float = 1.0,
        feature: Literal["patches", "summary"] = "patches",
        head: Head | None = None,
        teacher_head: Head | None = None,
        channels: Sequence[int] | None = None,
        tokens: Sequence[int] | None = None,
        by_length: Sequence[float] | None = None,
        start_step: int = 0,
        stop_step: int | None = None,
    ) -> None:
        super().__init__(weight)
        self.distance = find_distance(loss) if isinstance(loss, str) else loss
        if feature not in ("patches", "summary"):
            raise ValueError(f"feature must be patches or summary, got {feature!r}")
        if self.distance.over_places and feature != "patches":
            raise ValueError("feature must be patches for a loss between the places of an image, got summary")
        if self.distance.in_batch and feature != "summary":
            raise ValueError("feature must be summary for a loss that compares images with each other, got patches")
        if teacher_head is not None and not self.distance.in_batch:
            raise ValueError(f"teacher_head must be null unless images are compared with each other, got loss {loss!r}")
        # Widths: of the teacher, of its head and of ours.
        wanted = teacher.dim if feature == "patches" else teacher.summary_dim
        if teacher_head is not None:
            if teacher_head.in_dim != wanted:
                raise ValueError(
                    f"teacher_head.in_dim must be {wanted}, that of the teacher, got {teacher_head.in_dim}"
                )
            wanted = teacher_head.out_dim
        if head is not None and self.distance.same_width and head.out_dim != wanted:
            raise ValueError(f"head.out_dim must be {wanted}, the width of the teacher's features, got {head.out_dim}")
        # Which part of the features is compared, and when.
        for name, span in (("channels", channels), ("tokens", tokens)):
            if span is not None and (len(span) != 2 or not 0 <= span[0] < span[1]):
                raise ValueError(f"{name} must be a first one and the one after the last, got {list(span)}")
        if by_length is not None and (len(by_length) != 2 or min(by_length) < 0):
            raise ValueError(f"by_length must be factors at one latent and at all, not negative, got {list(by_length)}")
        if start_step < 0 or (stop_step is not None and stop_step <= start_step):
            raise ValueError(f"start_step must not be negative and before stop_step, got {start_step} and {stop_step}")
        self.teacher, self.head, self.teacher_head = teacher, head, teacher_head
        self.source, self.feature, self.width = source, feature, wanted
        self.needs = (source,)
        self.channels = None if channels is None else slice(*channels)
        self.tokens = None if tokens is None else slice(*tokens)
        self.by_length = None if by_length is None else (by_length[0], by_length[1])
        self.start_step, self.stop_step = start_step, stop_step

    @override
    def forward(
        self, target: Float[Tensor, "b c h w"], quantized: Quantized, taps: Mapping[str, Tensor], step: int
    ) -> Float[Tensor, ""]:
        features, keep = self._features(taps[self.source], quantized.keep)
        patches, summary = self.teacher(target)
        if self.feature == "summary":
            if self.teacher_head is not None:
                summary = self.teacher_head(rearrange(summary.to(target.dtype), "b k -> b 1 k"))[:, 0]
            values = self.distance(kept_mean(features, keep), summary)
        else:
            values = kept_mean(self.distance(features, resized(patches, features.shape[1]))[..., None], keep)[:, 0]
        active = step >= self.start_step and (self.stop_step is None or step < self.stop_step)
        # times 0, not left out: ranks wait for the gradient of every parameter
        return (values * self._factors(quantized.keep, values)).mean() * float(active)

    def _features(
        self, features: Tensor, keep: Bool[Tensor, "b t"] | None
    ) -> tuple[Float[Tensor, "b n k"], Bool[Tensor, "b n"] | None]:
        """The tokenizer's features as the teacher's are, and which of them count."""
        if features.ndim == 4:
            features = rearrange(features, "b d h w -> b (h w) d")
        if features.ndim != 3:
            raise ValueError(f"{self.source} must give tokens or a map to be aligned, got {tuple(features.shape)}")
        if self.source not in LATENTS or keep is None or keep.shape[1] != features.shape[1]:
            keep = None  # places of the decoder are all there, however few latents are
        if self.tokens is not None:
            features, keep = features[:, self.tokens], None if keep is None else keep[:, self.tokens]
        if self.channels is not None:
            features = features[..., self.channels]
        if self.distance.over_places and keep is not None:
            raise ValueError("every token is needed for a loss between the places of an image, and some are left out")
        expected = self.width if self.head is None else self.head.in_dim
        if features.shape[-1] != expected and (self.head is not None or self.distance.same_width):
            what = "head.in_dim" if self.head is not None else "the teacher's width, where there is no head,"
            raise ValueError(f"{what} must be {features.shape[-1]}, that of {self.source}, got {expected}")
        if self.head is None:
            return features, keep
        return self.head(features, keep), keep if self.head.per_token else None

    def _factors(self, keep: Bool[Tensor, "b n"] | None, values: Float[Tensor, " all"]) -> Float[Tensor, " all"]:
        """How much each image's loss counts."""
        if self.by_length is None:
            return torch.ones_like(values)
        few, many = self.by_length
        if keep is None:
            return torch.full_like(values, many)
        share = ((keep.sum(1) - 1) / max(1, keep.shape[1] - 1)).clamp_min(0).to(values.dtype)
        return few + (many - few) * (gather_rows(share) if self.distance.in_batch else share)


def kept_mean(features: Float[Tensor, "b n k"], keep: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b k"]:
    """The mean over tokens that are kept; 0 where none is."""
    if keep is None:
        return features.mean(1)
    kept = keep[..., None].to(features.dtype)
    return (features * kept).sum(1) / kept.sum(1).clamp_min(1)


def resized(patches: Float[Tensor, "b m k"], number: int) -> Float[Tensor, "b n k"]:
    """The teacher's square map with so many places; ValueError if either is no square number."""
    if patches.shape[1] == number:
        return patches
    side, wanted = round(patches.shape[1] ** 0.5), round(number**0.5)
    if side**2 != patches.shape[1] or wanted**2 != number:
        raise ValueError(
            f"tokens must be {patches.shape[1]}, as the teacher's patches, or a square number where these are one, to "
            f"lie over them, got {number}; use feature=summary, or a head with queries={patches.shape[1]}"
        )
    maps = rearrange(patches.float(), "b (h w) k -> b k h w", h=side)
    maps = F.interpolate(maps, (wanted, wanted), mode="bicubic", align_corners=False, antialias=True)
    return rearrange(maps, "b k h w -> b (h w) k")
