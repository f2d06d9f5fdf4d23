"""Float32 that is float32: without autocast and without TF32, forward and backward.

Autocast acts on every operation that runs while it is on, including the matrix products of a backward pass. So a loss
that was computed in float32 would get a gradient of bfloat16 products if ``backward`` were called inside autocast.
Lightning does so in a step of manual optimisation, and a user's own loop may do so. TF32 is the same on a smaller
scale: a GPU multiplies float32 with 10 bits of mantissa while it is on, whatever the forward pass did.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge


def exact(values: Tensor) -> Tensor:
    """The same values in float32, or in the float64 that they have."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


# By these flags and not by `fp32_precision`: after that one is set, torch.export stops at cuDNN's own flag.
_PLACES: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)


def has_tf32() -> bool:
    """Whether a GPU may multiply float32 in TF32, in matrices or in convolutions."""
    return any(place.allow_tf32 for place in _PLACES)


@contextmanager
def with_tf32(on: bool) -> Iterator[None]:
    """Let GPUs multiply float32 in TF32, or not, for the length of a ``with``: matrices and convolutions alike."""
    before = [place.allow_tf32 for place in _PLACES]
    try:
        for place in _PLACES:
            place.allow_tf32 = on
        yield
    finally:
        for place, value in zip(_PLACES, before, strict=True):
            place.allow_tf32 = value


def exactly(device: torch.device) -> AbstractContextManager[Any]:
    """Compute in the precision of the tensors on a device, with neither autocast nor TF32.

    ``torch.compile`` sees autocast alone; what is compiled must be called without TF32. Meta tensors have neither.
    """
    if device.type == "meta":
        return nullcontext()
    if torch.compiler.is_compiling() or device.type != "cuda" or not has_tf32():
        return torch.autocast(device.type, enabled=False)
    return _with_neither()


@contextmanager
def _with_neither() -> Iterator[None]:
    with torch.autocast("cuda", enabled=False), with_tf32(False):
        yield


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


def exact_backward(outputs: Iterable[Tensor], inputs: Iterable[Tensor] = (), tf32: bool = False) -> None:
    """Let everything between ``inputs`` and ``outputs`` be differentiated without autocast, whoever calls backward.

    A parameter's own node (which has the parameter as ``variable``) only sums gradients, so it is left alone. DDP keeps
    such a node for the whole run, and with it any hook that a step adds.

    Does nothing if autocast and TF32 are off now: ``backward`` is then not called inside them, or the caller wants it
    so.

    Args:
        outputs: What was computed with autocast off, each with its graph or without one.
        inputs: What it was computed of; what lies before them is left alone. Parameters need not be named.
        tf32: Whether TF32 stays as it is; else it is off, too.
    """
    outputs = [output for output in outputs if output.requires_grad]
    if torch.compiler.is_compiling() or not outputs:
        return
    device = outputs[0].device.type
    lowered = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)  # meta has no autocast
    if not lowered and (tf32 or device != "cuda" or not has_tf32()):
        return
    seen = {get_gradient_edge(tensor).node for tensor in inputs if tensor.requires_grad}
    waiting = [get_gradient_edge(output).node for output in outputs]
    while waiting:
        node = waiting.pop()
        if node not in seen and not hasattr(node, "variable"):  # what adds to a parameter's grad outlives this graph
            seen.add(node)
            _switch_off(node, torch.device(device), tf32)
            waiting += [before for before, _ in node.next_functions if before is not None]


def _switch_off(node: Node, device: torch.device, tf32: bool) -> None:
    """Turn autocast off just before the node's gradient is computed, and put it back after; TF32 unless it stays."""
    inside = ExitStack()

    def enter(_gradients: Any) -> None:
        inside.enter_context(torch.autocast(device.type, enabled=False) if tf32 else exactly(device))

    def leave(_gradients: Any, _taken: Any) -> None:
        inside.close()

    node.register_prehook(enter)
    node.register_hook(leave)
