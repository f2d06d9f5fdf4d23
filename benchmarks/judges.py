"""How far the gradients of perceptual losses in bf16 and in TF32 are from those in fp32, on bundled photographs.

python benchmarks/judges.py     the table of docs/training.md; a minute of one CPU core

A photograph is compared with itself under noise (0.1 of [-1, 1]) and under a blur (the mean of 5 x 5 pixels), which is
more like what a young tokenizer makes. A processor has no TF32: what goes into each product is rounded to its ten bits
of mantissa, and sums are fp32, as on a GPU.
"""

import logging
from typing import Any

import torch
import torch.nn.functional as F
from skimage import data
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from imtok.losses.base import ImageLoss
from imtok.losses.efflite0 import EffLite0Loss
from imtok.losses.logits import LogitLoss
from imtok.losses.lpips import LPIPSLoss

SIDE = 128
PRODUCTS = ("convolution", "convolution_backward", "mm", "addmm", "bmm")


class RoundedProducts(TorchDispatchMode):
    """Products of float32 whose factors are rounded as TF32 rounds them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation of torch."""
        if func.overloadpacket.__name__ in PRODUCTS:
            args = tuple(_rounded(one) for one in args)
        return func(*args, **(kwargs or {}))


def main() -> None:
    """Print a row for each loss and change."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    losses = {
        "EffLite0, trained": EffLite0Loss(),
        "LPIPS with VGG, random": LPIPSLoss(weights="random"),
        "logits of ConvNeXt-S, random": LogitLoss("convnext_small", "random", side=SIDE),
    }
    target = photographs()
    changed = {
        "noise": target + 0.1 * torch.randn_like(target),
        "blur": F.avg_pool2d(F.pad(target, (2, 2, 2, 2), mode="reflect"), 5, 1),
    }
    print("| loss | image | bf16 value | bf16 gradient | cosine | TF32 value | TF32 gradient | cosine |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for name, loss in losses.items():
        for what, image in changed.items():
            exact = of(loss, image, target, "fp32")
            cells = [figures(of(loss, image, target, precision), exact) for precision in ("bf16", "tf32")]
            print(f"| {name} | {what} | {' | '.join(cells)} |", flush=True)


def photographs() -> Tensor:
    """Eight crops of two photographs, in [-1, 1]."""
    images = [torch.from_numpy(image) for image in (data.astronaut(), data.coffee())]
    places = [(20 + 30 * index, 40 + 25 * index) for index in range(4)]
    crops = [image[top : top + SIDE, left : left + SIDE, :3] for image in images for top, left in places]
    return torch.stack(crops).permute(0, 3, 1, 2).float() / 127.5 - 1


def of(loss: ImageLoss, image: Tensor, target: Tensor, precision: str) -> tuple[float, Tensor]:
    """Value of a loss, and its gradient with respect to the image, in float64."""
    seen = image.clone().requires_grad_()
    if precision == "tf32":
        with RoundedProducts():
            value = loss(seen, target)
            value.backward()
    else:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            value = loss(seen, target)
        value.backward()
    assert seen.grad is not None
    return value.item(), seen.grad.double().flatten()


def figures(found: tuple[float, Tensor], exact: tuple[float, Tensor]) -> str:
    """Relative error of the value and of the gradient, and the gradients' cosine."""
    (value, gradient), (right, wanted) = found, exact
    error = ((gradient - wanted).norm() / wanted.norm()).item()
    cosine = F.cosine_similarity(gradient, wanted, dim=0).item()
    return f"{abs(value - right) / right:.2%} | {error:.1%} | {cosine:.3f}"


def _rounded(value: object) -> object:
    if not isinstance(value, Tensor) or value.dtype != torch.float32:
        return value
    bits = (value.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF
    return bits.view(torch.float32)


if __name__ == "__main__":
    main()
