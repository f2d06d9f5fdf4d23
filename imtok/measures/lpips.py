"""LPIPS as a number over a data set (arXiv 1801.03924)."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Real
from torch import Tensor
from typing_extensions import override

from imtok.losses.lpips import LPIPSLoss
from imtok.measures.mean import ImageMean
from imtok.nn.exact import exactly
from imtok.pixels import rgb_levels, to_float


class LPIPS(ImageMean):
    """Mean over images of each image's LPIPS, version 0.1, images in ``[-1, 1]``.

    Feeding [0, 1] instead, a common slip, gives about a third of the value. The net computes in float32, whose last
    digit depends on the batch: the mean is the same to eight digits however the images are split.

    Args:
        network: "alex" or "vgg". Numbers of the two are not comparable, so ``name`` tells them apart.
        backbone: torchvision's weight file; None = the one in the cache of ``torch.hub``. Nothing is downloaded.
            "random" = no file, for tests.
        heads: The five weightings; None = those that come with the PyPI package ``lpips``.
        sha256: First digits of the backbone's hash; "published" = those of torchvision's file; None accepts any.
        **settings: Of :class:`torchmetrics.Metric`.

    Raises:
        InputError: If a weight file is missing, another one or damaged.
        ValueError: If there is no such network; in ``update``, if images are too small or differ in shape.

    Example:
        >>> metric = LPIPS("alex", backbone="random")
        >>> metric.name
        'lpips_alex_random'
        >>> image = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
        >>> metric.update(image, image)
        >>> metric.compute().item()
        0.0
    """

    name = "lpips_{net}"
    meaning = "Perceptual distance of each pair in the features of a net, the mean over images. 0 means none."
    higher_is_better = False
    smallest = 32
    convention = "mean over images of LPIPS 0.1 of uint8 RGB pixels in [-1, 1]"

    def __init__(
        self,
        network: str = "alex",
        backbone: str | Path | None = None,
        heads: str | Path | None = None,
        sha256: str | None = "published",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.net = LPIPSLoss(network, backbone, heads, sha256=sha256)
        self.name, self.hash = self.net.name, self.net.hash
        self.facts = {"extractor_hash": self.hash[:16]}

    @override
    def per_image(self, image: Real[Tensor, "b c h w"], target: Real[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        with exactly(image.device), torch.no_grad():
            return self.net.per_image(to_float(rgb_levels(image)), to_float(rgb_levels(target))).double()
