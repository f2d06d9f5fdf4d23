"""How well masks overlap: the measure of tokenizers of masks (AiT, arXiv 2301.02229)."""

import torch
from jaxtyping import Float, Real
from torch import Tensor
from typing_extensions import override

from imtok.measures.mean import ImageMean


class MaskIoU(ImageMean):
    """Mean over images of the intersection over union of reconstruction and original, both as masks.

    A value above the middle of the range belongs to the mask. Each channel is a mask of its own, and an image's value
    is the mean of them. Two masks without a pixel agree wholly.

    Example:
        >>> metric = MaskIoU()
        >>> target = torch.tensor([[[[0.0, 255.0, 255.0, 255.0]]]])
        >>> metric.update(torch.tensor([[[[0.0, 0.0, 200.0, 255.0]]]]), target)
        >>> round(metric.compute().item(), 4)
        0.6667
    """

    name, title = "iou", "IoU of masks"
    meaning = "Intersection over union of masks, the mean over images. 1 means that every pixel is on its side."
    higher_is_better = True
    convention = "mean over images of the IoU of pixels above 127.5 of 255, each channel a mask; of two empty masks 1"

    @override
    def per_image(self, image: Real[Tensor, "b c h w"], target: Real[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        made, wanted = (part > 127.5 for part in (image, target))
        both, either = ((part.flatten(2).sum(-1)).double() for part in (made & wanted, made | wanted))
        return torch.where(either > 0, both / either.clamp_min(1), 1.0).mean(1)
