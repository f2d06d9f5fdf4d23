"""Samples to a batch."""

import torch
from torch import Tensor

from imtok.data.contract import Sample
from imtok.errors import InputError
from imtok.types import Batch


def collate(samples: list[Sample], size: int, channels: int = 3) -> Batch | InputError:
    """A batch of the samples that have an image; an error as a value, since workers' own would arrive as tracebacks.

    Args:
        samples: What a data set gave.
        size: Side of the images, in pixels.
        channels: Of the images; of one channel they are float32, else uint8.
    """
    for sample in samples:
        if sample.error is not None:
            return InputError(sample.error)
    images = [sample.image for sample in samples if sample.image is not None]
    good = [sample for sample in samples if sample.image is not None]
    sources = [sample.source for sample in good if sample.source is not None]
    captions, texts = [sample.caption for sample in good], [sample.texts for sample in good]
    return Batch(
        image=torch.stack(images) if images else _nothing(size, channels),
        label=torch.tensor([sample.label for sample in good], dtype=torch.int64),
        index=torch.tensor([sample.index for sample in good], dtype=torch.int64),
        key=[sample.key for sample in good],
        bad=[reason for sample in samples for reason in sample.bad],
        source=torch.stack(sources) if sources else None,
        caption=captions if any(captions) else [],
        texts=texts if any(texts) else [],
        boxes=[torch.from_numpy(sample.boxes) for sample in good if sample.boxes is not None],
    )


def _nothing(size: int, channels: int) -> Tensor:
    return torch.empty(0, channels, size, size, dtype=torch.float32 if channels == 1 else torch.uint8)
