"""Noise as large as images, drawn where it is needed."""

import torch
from torch import Tensor


def normal_like(values: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal numbers of the shape, type and device of ``values``.

    On a processor they are drawn from ``generator``. Another device draws them itself, from a seed that ``generator``
    gives: nothing is copied, and nothing waits. So the numbers differ between devices, as all else does there.

    Args:
        values: What the numbers are like.
        generator: On the processor; None = torch's own.

    Example:
        >>> first, again = (normal_like(torch.zeros(2, 3), torch.Generator().manual_seed(5)) for _ in range(2))
        >>> torch.equal(first, again)
        True
    """
    if values.device.type in ("cpu", "meta"):
        return torch.randn(values.shape, generator=generator).to(values)
    seed = int(torch.randint(2**62, (), generator=generator))
    own = torch.Generator(values.device).manual_seed(seed)
    return torch.randn(values.shape, generator=own, dtype=values.dtype, device=values.device)
