"""What tests of encoders and decoders share."""

import torch


def wake(module):
    """Give parameters that start at zero (gates, last layers) some value, or nothing behind them could be seen."""
    for parameter in module.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.2)
    if hasattr(module, "space"):
        module.space.to(next(module.parameters()).dtype)
