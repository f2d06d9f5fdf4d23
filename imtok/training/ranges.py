"""Finds numbers in a config that nothing can compute with, and names their keys before anything tries."""

import math
from collections.abc import Iterator
from typing import Any

LARGEST = 2**63 - 1


def unusable_numbers(node: Any, path: str = "") -> Iterator[str]:
    """A line for each number in a config's plain values that is infinite, NaN or an integer beyond 64 bits.

    Example:
        >>> list(unusable_numbers({"seed": 10**20, "data": [{"size": 3}]}))
        ['seed must be at most 9223372036854775807 (64 bits), got 100000000000000000000']
    """
    if isinstance(node, int) and abs(node) > LARGEST:
        bound = f"at most {LARGEST}" if node > 0 else f"at least -{LARGEST}"
        yield f"{path} must be {bound} (64 bits), got {node}"
    if isinstance(node, float) and not math.isfinite(node):
        yield f"{path} must be a finite number, got {node}"
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        place = f"[{key}]" if isinstance(node, list) else f".{key}" if path else str(key)
        yield from unusable_numbers(value, path + place)
