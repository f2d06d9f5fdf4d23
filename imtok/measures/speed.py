"""How fast a tokenizer is where it is measured: its own passes, without data and measures."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from imtok.distributed import device_name


class Stopwatch:
    """Adds up the time of a tokenizer's passes over batches of images.

    The first batch is left out, since it also pays for memory, kernels and compilation. A single batch gives no speed.

    Args:
        device: Where the tokenizer computes. Work that was handed to an accelerator is waited for.

    Example:
        >>> stopwatch = Stopwatch(torch.device("cpu"))
        >>> for _ in range(2):
        ...     with stopwatch.of(8):
        ...         _ = torch.zeros(8, 3, 64, 64).mean()
        >>> stopwatch.found["images"], stopwatch.found["images_per_second"] > 0
        (8, True)
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._passes = list[tuple[int, float]]()

    @contextmanager
    def of(self, images: int) -> Iterator[None]:
        """Time the pass inside, over so many images."""
        self._wait()
        begin = time.perf_counter()
        yield
        self._wait()
        self._passes.append((images, time.perf_counter() - begin))

    @property
    def found(self) -> dict[str, Any]:
        """``images_per_second``, over how many ``images``, and on which ``device``; empty without a second pass."""
        counted = self._passes[1:]
        seconds = sum(duration for _, duration in counted)
        if seconds <= 0:
            return {}
        images = sum(number for number, _ in counted)
        return {"images_per_second": images / seconds, "images": images, "device": device_name(self.device, 1)}

    def _wait(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
