"""Floating-point operations of a training step, and how much of a GPU's peak a run reaches."""

import re
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from typing_extensions import override

# Dense bf16 TFLOP/s by the name of a GPU, from the makers' data sheets; longer names come first.
PEAKS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "A800": 312.0,
    "A40": 149.7,
    "L40S": 362.0,
}


class Flops(TorchDispatchMode):
    """Counts floating-point operations of products and convolutions, those of backward passes as well.

    torch's own counter hooks modules besides, which needs real tensors. Attention on a CPU is counted as on a GPU.

    Attributes:
        total: So far; a multiplication and an addition are two.

    Example:
        >>> with Flops() as flops:
        ...     _ = torch.ones(2, 3) @ torch.ones(3, 4)
        >>> flops.total
        48
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        counted = _AS_ON_A_GPU.get(func._overloadpacket, func._overloadpacket)
        if counted in flop_registry:
            self.total += flop_registry[counted](*args, **(kwargs or {}), out_val=found)
        return found


def peak_tflops(device: torch.device) -> float | None:
    """Dense bf16 TFLOP/s of a GPU that is known by name; None = it is not known, or no GPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if re.search(rf"\b{part}\b", name)), None)


_aten = torch.ops.aten
_AS_ON_A_GPU = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _aten._scaled_dot_product_flash_attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _aten._scaled_dot_product_flash_attention_backward,
}
