"""Finds integers in a config that do not fit into 64 bits, before anything computes with them."""

from collections.abc import Iterator
from typing import Any

LARGEST = 2**63 - 1


def too_large(node: Any, path: str = "") -> Iterator[str]:
    """A line for each integer in a config's plain values that does not fit into 64 bits.

    Example:
        >>> list(too_large({"seed": 10**20, "data": [{"size": 3}]}))
        ['seed must be at most 9223372036854775807 (64 bits), got 100000000000000000000']
    """
    if isinstance(node, int) and abs(node) > LARGEST:
        bound = f"at most {LARGEST}" if node > 0 else f"at least -{LARGEST}"
        yield f"{path} must be {bound} (64 bits), got {node}"
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        place = f"[{key}]" if isinstance(node, list) else f".{key}" if path else str(key)
        yield from too_large(value, path + place)
