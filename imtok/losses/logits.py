"""Squared distance of a classifier's scores, as TiTok (arXiv 2406.07550) and MaskBit (arXiv 2409.16211) use it."""

from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import convnext_small, resnet50, squeezenet1_1
from typing_extensions import override

from imtok.losses.base import ImageLoss
from imtok.nn.frozen import Frozen, drawn
from imtok.pixels import to_rgb
from imtok.pretrained import RANDOM
from imtok.weights import WeightFile, fill, read_weights

Net = Literal["convnext_small", "resnet50", "squeezenet1_1"]
_HUB = "https://download.pytorch.org/models/"
_MAKE = {"convnext_small": convnext_small, "resnet50": resnet50, "squeezenet1_1": squeezenet1_1}
PUBLISHED = {
    name: WeightFile((f"{name}-{digest}.pth",), digest, f"{_HUB}{name}-{digest}.pth")
    for name, digest in (("convnext_small", "0c510722"), ("resnet50", "0676ba61"), ("squeezenet1_1", "b8a52dc0"))
}


class LogitLoss(ImageLoss):
    """Mean squared difference of the 1000 scores that an ImageNet classifier gives to two images.

    Images are resized by an antialiased bilinear filter. The net is frozen; its weights are in no checkpoint.

    Args:
        net: "convnext_small" (TiTok), "resnet50" (MaskBit) or, for small runs, "squeezenet1_1", a fortieth of the work;
            torchvision's weights IMAGENET1K_V1.
        weights: torchvision's weight file; None = the one in the cache of ``torch.hub``. Nothing is downloaded.
            "random" = no file: fixed random weights, for trying things out only.
        weight: Factor in the total.
        side: Side in pixels that images are resized to; the nets were trained at 224.
        sha256: First digits of the hash of the file; "published" = those of torchvision's; None accepts any file.

    Raises:
        InputError: If the weight file is missing, another one or damaged.
        ValueError: If there is no such net, ``weight`` is negative or ``side`` is below 32.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        net: Net = "convnext_small",
        weights: str | Path | None = None,
        weight: float = 1.0,
        side: int = 224,
        sha256: str | None = "published",
    ) -> None:
        super().__init__(weight)
        if net not in get_args(Net):
            raise ValueError(f"net must be one of {', '.join(get_args(Net))}, got {net!r}")
        if side < 32:
            raise ValueError(f"side must be at least 32 pixels, got {side}")
        self.side = side
        if weights == RANDOM:
            classifier = drawn(lambda: _calm(_MAKE[net]()), net)
        else:
            expected = PUBLISHED[net].sha256 if sha256 == "published" else sha256
            stored = read_weights(PUBLISHED[net].find(weights), expected)
            classifier = _MAKE[net]()
            fill(classifier, stored)
        self.classifier = Frozen(classifier)
        for name, values in (("mean", (0.485, 0.456, 0.406)), ("deviation", (0.229, 0.224, 0.225))):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    @override
    def forward(self, image: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        with torch.no_grad():
            wanted = self._scores(target)
        return F.mse_loss(self._scores(image), wanted)

    def _scores(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1000"]:
        resized = F.interpolate(
            to_rgb(image), (self.side, self.side), mode="bilinear", align_corners=False, antialias=True
        )
        return self.classifier(((resized + 1) / 2 - self.mean) / self.deviation)


def _calm(net: nn.Module) -> nn.Module:
    """Batch norm without statistics lets residuals grow from block to block: begin each near nothing."""
    for name, part in net.named_modules():
        if name.endswith("bn3") and isinstance(part, nn.BatchNorm2d):
            nn.init.constant_(part.weight, 0.2)
    return net
