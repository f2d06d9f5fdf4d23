"""Losses pixel by pixel, as VQGAN (L1, arXiv 2012.09841) and LlamaGen (L2, arXiv 2406.06525) use them."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.losses.base import ImageLoss


class L1Loss(ImageLoss):
    """Mean absolute error over pixels and channels.

    Example:
        >>> import torch
        >>> L1Loss()(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5))
        tensor(0.5000)
    """

    @override
    def forward(self, image: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        return F.l1_loss(image, target)


class L2Loss(ImageLoss):
    """Mean squared error over pixels and channels.

    Example:
        >>> import torch
        >>> L2Loss()(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5))
        tensor(0.2500)
    """

    @override
    def forward(self, image: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        return F.mse_loss(image, target)


class KnownL2Loss(ImageLoss):
    """Mean over images of the mean squared error over the pixels that are known (AiT, arXiv 2301.02229).

    A pixel is known if its target is above level 0, which means unknown depth in the files of NYU and KITTI. An
    image without any adds 0. The mean is over images first, so that micro-batches and ranks add up to one batch.

    Example:
        >>> KnownL2Loss()(torch.zeros(1, 1, 1, 2), torch.tensor([[[[-1.0, 0.5]]]]))
        tensor(0.2500)
    """

    @override
    def forward(self, image: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        known = target > -1
        errors = torch.where(known, image - target, 0).square().flatten(1).sum(1)
        return (errors / known.flatten(1).sum(1).clamp_min(1)).mean()
