"""Computes gradients with autocast off for everything that was computed with autocast off.

Autocast acts on every operation that runs while it is on, including the matrix products of a backward pass. So a loss
that was computed in float32 would get a gradient of bfloat16 products if ``backward`` were called inside autocast.
Lightning does so in a step of manual optimisation, and a user's own loop may do so.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge


def gradients(
    output: Tensor, inputs: Sequence[Tensor], towards: Tensor | None = None, retain_graph: bool = False
) -> tuple[Tensor, ...]:
    """The gradients of ``output`` with respect to ``inputs``, with autocast off; those of ``output * towards``.

    Args:
        output: A scalar, or any tensor with ``towards``.
        inputs: All of them must be in its graph.
        towards: The weight of each element of the output; None = the output is a scalar.
        retain_graph: Whether the graph stays for another pass.
    """
    with torch.autocast(output.device.type, enabled=False):
        return torch.autograd.grad(output, inputs, towards, retain_graph=retain_graph)


def exact_backward(outputs: Iterable[Tensor], inputs: Iterable[Tensor] = ()) -> None:
    """Let everything between ``inputs`` and ``outputs`` be differentiated with autocast off, whoever calls backward.

    A parameter's own node (which has the parameter as ``variable``) only sums gradients, so it is left alone. DDP keeps
    such a node for the whole run, and with it any hook that a step adds.

    Does nothing if autocast is off now: ``backward`` is then not called inside autocast, or the caller wants it so.

    Args:
        outputs: What was computed with autocast off, each with its graph or without one.
        inputs: What it was computed of; what lies before them is left alone. Parameters need not be named.
    """
    outputs = [output for output in outputs if output.requires_grad]
    if torch.compiler.is_compiling() or not outputs:
        return
    device = outputs[0].device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):  # meta has no autocast
        return
    seen = {get_gradient_edge(tensor).node for tensor in inputs if tensor.requires_grad}
    waiting = [get_gradient_edge(output).node for output in outputs]
    while waiting:
        node = waiting.pop()
        if node not in seen and not hasattr(node, "variable"):  # what adds to a parameter's grad outlives this graph
            seen.add(node)
            _switch_off(node, device)
            waiting += [before for before, _ in node.next_functions if before is not None]


def _switch_off(node: Node, device: str) -> None:
    """Turn autocast off just before the node's gradient is computed, and put it back just after."""
    outside = [False]

    def enter(_gradients: Any) -> None:
        outside[0] = torch.is_autocast_enabled(device)
        torch.set_autocast_enabled(device, False)

    def leave(_gradients: Any, _taken: Any) -> None:
        torch.set_autocast_enabled(device, outside[0])

    node.register_prehook(enter)
    node.register_hook(leave)
