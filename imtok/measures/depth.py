"""The relative error of depth maps (Eigen et al., arXiv 1406.2283)."""

import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor
from typing_extensions import override

from imtok.measures.mean import ImageMean


class DepthError(ImageMean):
    """Mean over images of the mean of ``|made - true| / true`` over the pixels whose depth is known.

    Level 0 means unknown depth, as in the files of NYU and KITTI. An image without any known depth does
    not count. The unit of the levels does not matter, as long as 0 is no distance.

    Example:
        >>> metric = DepthError()
        >>> metric.update(torch.tensor([[[[5.0, 11.0, 18.0]]]]), torch.tensor([[[[0.0, 10.0, 20.0]]]]))
        >>> round(metric.compute().item(), 4)
        0.1
    """

    name, title = "depth_error", "Relative depth error"
    meaning = "Absolute error of the depth by the depth itself, the mean over known pixels and then over images."
    higher_is_better = False
    convention = "mean over images of the mean of |made - true| / true over pixels whose true level is above 0"
    lacking = "no image has a pixel of known depth, whose level is above 0"

    @override
    def measured(self, target: Real[Tensor, "b c h w"]) -> Bool[Tensor, " b"]:
        return (target > 0).flatten(1).any(1)

    @override
    def per_image(self, image: Real[Tensor, "b c h w"], target: Real[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        made, true = image.double(), target.double()
        known = true > 0
        errors = torch.where(known, (made - true).abs() / torch.where(known, true, 1.0), 0.0)
        return errors.flatten(1).sum(1) / known.flatten(1).sum(1).clamp_min(1)
