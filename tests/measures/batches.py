"""A batch of evaluation."""

import torch

from imtok.pixels import to_uint8
from imtok.types import Batch


def batch_of(image):
    index = torch.arange(len(image))
    return [Batch(to_uint8(image), index, index, [f"image {number}" for number in index.tolist()])]
