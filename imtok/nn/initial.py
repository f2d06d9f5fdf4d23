"""How the transformers of tokenizers start."""

from torch import nn


def truncated_normal(module: nn.Module, std: float = 0.02) -> None:
    """Draw the weights of all linear maps and convolutions in ``module`` anew, and set their biases to zero.

    Args:
        module: Its norms and other parameters stay as they are.
        std: Standard deviation of the weights, far inside the truncation.

    Example:
        >>> linear = nn.Linear(64, 64)
        >>> truncated_normal(linear)
        >>> bool(linear.bias.any()), bool(linear.weight.abs().max() < 0.2)
        (False, True)
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
