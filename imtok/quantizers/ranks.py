"""Means over ranks inside a quantizer's forward.

Only a pass that will be differentiated talks to other ranks: ranks that evaluate or encode need not do so in step.
"""

import torch
from torch import Tensor

from imtok import distributed


def mean_over_ranks(value: Tensor) -> Tensor:
    """:func:`imtok.distributed.mean_over_ranks` where gradients are wanted, else ``value`` itself."""
    return distributed.mean_over_ranks(value) if torch.is_grad_enabled() else value
