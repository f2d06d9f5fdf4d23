"""The weight of one loss that keeps its gradient as large as another's: the adaptive weight of VQGAN (2012.09841)."""

from jaxtyping import Float
from torch import Tensor

from imtok.distributed import sum_over_ranks, world_size
from imtok.nn.exact import gradients

_EPSILON = 1e-4  # of VQGAN's code; its paper has 1e-6
_LARGEST = 1e4


def balance(
    image: Float[Tensor, "b c h w"],
    last_layer: Tensor,
    wanted: Float[Tensor, "b c h w"],
    balanced: Float[Tensor, "b c h w"],
) -> Float[Tensor, ""]:
    """How many times larger the gradient of one loss is than another's, at the weight that writes the image.

    Both losses are given by their gradients with respect to the image, so that only the last layer is differentiated.
    The gradients are averaged over ranks before their norms are taken: it is the weight of one big batch. The same as
    differentiating both losses down to the last layer.

    Args:
        image: The image with its graph, which stays whole.
        last_layer: The weight that wrote it.
        wanted: Gradient of the loss that sets the size.
        balanced: Gradient of the loss that is to be as large.

    Raises:
        ValueError: If the last layer does not learn.

    Example:
        >>> import torch
        >>> weight = torch.ones(3, 1, requires_grad=True)
        >>> image = (weight * torch.ones(1, 3, 1, 4))[:, :, :1]
        >>> small, large = torch.full_like(image, 0.5), torch.full_like(image, 2.0)
        >>> round(balance(image, weight, small, large).item(), 3)
        0.25
    """
    if not last_layer.requires_grad:
        raise ValueError("the decoder's last layer must learn for an adaptive weight, got a frozen one")
    norms = []
    for gradient in (wanted, balanced):
        (product,) = gradients(image, [last_layer], gradient, retain_graph=True)
        norms.append((sum_over_ranks(product) / world_size()).norm())
    return (norms[0] / (norms[1] + _EPSILON)).clamp(0, _LARGEST)
