"""Gram loss, which compares the texture of two images wherever it is (Gatys et al., arXiv 1508.06576)."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.losses.classifier import ClassifierLoss
from imtok.nn.exact import exact, exactly


class GramLoss(ClassifierLoss):
    """Squared difference of how strongly a classifier's channels go together, summed over five depths.

    The Gram matrix of a map is the mean over positions of the products of all pairs of channels, divided by the number
    of channels: ``G = F F^T / (c h w)`` (Johnson et al., arXiv 1603.08155). The loss of a depth is the mean over the
    matrix of the squared difference. Where something is in the image does not matter: it is a loss of texture, and
    stands beside others. BAR (arXiv 2602.09024) trains with such a term.

    Args:
        net: "vgg" (VGG16, the usual choice) or "alex" (AlexNet).
        weights: torchvision's weight file; None = the one in the cache of ``torch.hub``. Nothing is downloaded.
            "random" = no file: fixed random weights, for trying things out only.
        weight: Factor in the total.
        sha256: First digits of the hash of the weight file; "published" = those of torchvision's; None accepts any.

    Raises:
        InputError: If the weight file is missing, another one or damaged.
        ValueError: If there is no such net or ``weight`` is negative; in use, if images are too small or differ in
            shape.

    Example:
        >>> loss = GramLoss("alex", weights="random")
        >>> image = torch.rand(2, 3, 64, 64) * 2 - 1
        >>> loss(image, image).item(), loss(image, -image).item() > 0
        (0.0, True)
    """

    what = "the Gram loss"

    def __init__(
        self,
        net: str = "vgg",
        weights: str | Path | None = None,
        weight: float = 1.0,
        sha256: str | None = "published",
    ) -> None:
        super().__init__(net, weights, weight, sha256)

    @override
    def forward(self, image: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        with torch.autocast(image.device.type, enabled=False):
            terms = self._compared(exact(image), exact(target), _distance)
            return torch.stack(terms).sum()


def _distance(depth: int, features: Tensor, others: Tensor) -> Float[Tensor, ""]:
    with exactly(features.device):
        return (gram(features) - gram(others)).square().mean()


def gram(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c c"]:
    """Products of all pairs of channels, averaged over positions and divided by the number of channels."""
    rows = maps.flatten(2)
    return rows @ rows.mT / rows[0].numel()
