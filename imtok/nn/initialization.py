"""How the weights of transformers and convolutions start, where it is not torch's own way."""

import math
from typing import Literal, get_args

import torch
from torch import nn

from imtok.nn.attention import SelfAttention
from imtok.nn.modulation import Modulation

Start = Literal["xavier", "normal"]
ConvolutionStart = Literal["fan_out", "half_xavier"]


def start_weights(module: nn.Module, start: Start) -> None:
    """Draw the weights of all linear maps and convolutions in ``module``, zero their biases; modulations stay.

    Args:
        module: A network.
        start: "xavier" = uniform by fan-in and fan-out, of query, key and value each on its own; "normal" = a normal
            distribution of deviation 0.02, cut off at 2 (and so 100 deviations).

    Raises:
        ValueError: If ``start`` is neither.
    """
    if start not in get_args(Start):
        raise ValueError(f"start must be one of {', '.join(get_args(Start))}, got {start!r}")
    modulations = {id(part.linear) for part in module.modules() if isinstance(part, Modulation)}
    fused = {id(part.query_key_value) for part in module.modules() if isinstance(part, SelfAttention)}
    for part in module.modules():
        if not isinstance(part, nn.Linear | nn.Conv2d) or id(part) in modulations:
            continue
        with torch.no_grad():
            for weight in part.weight.chunk(3) if id(part) in fused else [part.weight]:
                if start == "xavier":
                    nn.init.xavier_uniform_(weight)
                else:
                    nn.init.trunc_normal_(weight, std=0.02)
        if part.bias is not None:
            nn.init.zeros_(part.bias)


def start_convolutions(module: nn.Module, start: ConvolutionStart) -> None:
    """Draw the weights of all convolutions in ``module`` from normal distributions, and zero their biases.

    Args:
        module: A network.
        start: "fan_out" = the variance is 2 / fan-out, which counts the outputs of one group (ViTamin, arXiv
            2404.02132); "half_xavier" = the deviation is half of Xavier's (UniTok, arXiv 2502.20321).

    Raises:
        ValueError: If ``start`` is neither.
    """
    if start not in get_args(ConvolutionStart):
        raise ValueError(f"start must be one of {', '.join(get_args(ConvolutionStart))}, got {start!r}")
    for part in module.modules():
        if not isinstance(part, nn.Conv2d):
            continue
        if start == "fan_out":
            outputs = math.prod(part.kernel_size) * part.out_channels // part.groups
            nn.init.normal_(part.weight, std=math.sqrt(2 / outputs))
        else:
            nn.init.xavier_normal_(part.weight, gain=0.5)
        if part.bias is not None:
            nn.init.zeros_(part.bias)
