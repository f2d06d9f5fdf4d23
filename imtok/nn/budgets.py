"""A small net that scores numbers of tokens for an image (the policy of AdaTok, arXiv 2606.07185)."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.pixels import to_rgb

QUIET = 1e-4  # of a mean square, below which differences do not count


class BudgetPolicy(nn.Module):
    """Scores a few budgets by convolutions that halve an image, means over the map, and two linear maps.

    The means are those of the last map and, as a logarithm, of its square, since the energy of filters measures detail.
    Images of any size can be read. All budgets have the same probability in a new net.

    Args:
        budgets: Number of budgets.
        width: Channels of the first convolution; each further convolution doubles them.
        halvings: Number of convolutions of stride 2, at least 1.

    Example:
        >>> import torch
        >>> BudgetPolicy(8)(torch.rand(2, 3, 32, 32) * 2 - 1).shape
        torch.Size([2, 8])
    """

    def __init__(self, budgets: int, width: int = 16, halvings: int = 2) -> None:
        super().__init__()
        if width < 1 or halvings < 1:
            raise ValueError(f"width and halvings of the policy must be at least 1, got {width} and {halvings}")
        widths = [3, *(width * 2**level for level in range(halvings))]
        convolutions = [nn.Conv2d(before, after, 4, stride=2, padding=1) for before, after in pairwise(widths)]
        layers = [layer for conv in convolutions for layer in (nn.SiLU(), conv)]
        self.convolutions = nn.Sequential(*layers[1:])
        self.hidden = nn.Sequential(nn.Linear(2 * widths[-1], 64), nn.SiLU())
        self.scores = nn.Linear(64, budgets)
        nn.init.zeros_(self.scores.weight)
        nn.init.zeros_(self.scores.bias)

    @override
    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Unnormalised log probabilities of the budgets, for images in ``[-1, 1]`` of 1, 3 or 4 channels."""
        features = self.convolutions(to_rgb(image))
        energy = (features.square().mean((-2, -1)) + QUIET).log()
        return self.scores(self.hidden(torch.cat([features.mean((-2, -1)), energy], -1)))
