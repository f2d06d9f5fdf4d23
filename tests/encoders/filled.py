"""Weights that do not depend on how random numbers are drawn, for golden numbers."""

import torch


@torch.no_grad()
def filled(module):
    """Give every parameter waves of its own, in float64."""
    module.double().eval()
    for index, (_, parameter) in enumerate(sorted(module.named_parameters())):
        waves = torch.arange(parameter.numel(), dtype=torch.float64) * 0.7 + index
        parameter.copy_(0.3 * waves.sin().view(parameter.shape))
    return module


def wave(*shape):
    """An input of the same kind, between -1 and 1."""
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float64).mul(0.37).cos().view(shape)
