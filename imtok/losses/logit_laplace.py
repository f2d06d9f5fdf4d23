"""The logit-Laplace loss of DALL-E (arXiv 2102.12092), which ViT-VQGAN has beside others (arXiv 2110.04627)."""

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.losses.base import ImageLoss
from imtok.nn.exact import exact


class LogitLaplaceLoss(ImageLoss):
    """Mean absolute difference of logits: an error near black or white counts more than one of the same size in grey.

    Pixels go to ``m(x) = margin + (1 - 2 margin) x`` of ``x`` in [0, 1], and the loss is ``|logit m(x) - logit m(y)|``:
    the negative log likelihood of a Laplace distribution of scale 1 over logits, without the terms that do not depend
    on the reconstruction. Beyond black and white the logit goes on as its tangent, so that overshoot has a finite loss.

    Args:
        weight: Factor in the total.
        margin: How far from 0 and 1 pixels are kept, above 0 and below 1/2.

    Raises:
        ValueError: If the weight is negative or ``margin`` out of range.

    Example:
        >>> import torch
        >>> LogitLaplaceLoss()(torch.ones(1, 3, 2, 2), -torch.ones(1, 3, 2, 2))  # twice logit 0.9
        tensor(4.3944)
    """

    def __init__(self, weight: float = 1.0, margin: float = 0.1) -> None:
        super().__init__(weight)
        if not 0 < margin < 0.5:
            raise ValueError(f"margin must be above 0 and below 0.5, got {margin}")
        self.margin = margin

    @override
    def forward(self, image: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        return (self._logits(image) - self._logits(target)).abs().mean()

    def _logits(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        image = exact(image)
        inside = image.clamp(-1, 1)
        scale = (1 - 2 * self.margin) / 2  # of a pixel in [-1, 1]
        likely = 0.5 + scale * inside
        slope = scale / (self.margin * (1 - self.margin))
        return likely.log() - (1 - likely).log() + slope * (image - inside)
