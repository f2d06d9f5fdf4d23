"""How numbers are written for people."""

import math
from collections.abc import Callable, Mapping


def number(value: float) -> str:
    """Four digits, and no more than that; whole numbers above 1 without a point.

    Example:
        >>> [number(value) for value in (24.443, 512.0, 999.97, -1234.5, 1e20, float("nan"))]
        ['24.44', '512', '1,000', '-1,234', '1.000e+20', 'nan']
    """
    if 999.95 <= abs(value) < 1e15 or (1 < value < 1000 and value == int(value)):
        return f"{value:,.0f}"
    return f"{value:#.4g}"


def amount(value: int | float, what: str) -> str:
    """A number of things, in words.

    Example:
        >>> amount(1.0, "token"), amount(256, "token"), amount(37.53, "token")
        ('1 token', '256 tokens', '37.53 tokens')
    """
    return f"{'1' if value == 1 else number(float(value))} {what}{'s' * (value != 1)}"


def share(value: float) -> str:
    """A share in percent; what is not all of it is never 100 %, and what is not nothing never 0 %.

    Example:
        >>> share(0.8535), share(0.0123), share(0.9999), share(1.0), share(16 / 2**18)
        ('85 %', '1.2 %', '99.9 %', '100 %', '0.0061 %')
    """
    percent = 100 * value
    if 99.5 <= percent < 100:
        return f"{min(percent, 99.9):.1f} %"
    if percent >= 10 or percent == 0:
        return f"{percent:.0f} %"
    return f"{percent:.{max(1, 1 - math.floor(math.log10(percent)))}f} %"


def reasons(absent: Mapping[str, str], called: Callable[[str], str] = str) -> list[str]:
    """Why metrics are missing, a line for each reason.

    Args:
        absent: Reasons by name.
        called: What a name is called.

    Example:
        >>> reasons({"rfid": "no weights", "psnr": "no images", "kid": "no weights"})
        ['rfid, kid: no weights', 'psnr: no images']
    """
    names: dict[str, list[str]] = {}
    for name, reason in absent.items():
        names.setdefault(reason, []).append(called(name))
    return [f"{', '.join(own)}: {reason}" for reason, own in names.items()]


def is_stand_in(name: str) -> bool:
    """Whether no published number can be compared with this one."""
    return "efflite0" in name or "unverified" in name or "random" in name
