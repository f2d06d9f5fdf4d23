"""How numbers are called and written for people."""

from collections.abc import Callable, Mapping

_TITLES = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "msssim": "MS-SSIM",
    "usage": "codebook usage",
    "entropy_bits": "entropy (bits per slot)",
    "entropy_bits_corrected": "entropy, corrected (bits per slot)",
    "perplexity": "perplexity",
    "relative_perplexity": "perplexity / vocabulary",
    "frequent": "codes above 8 % of uniform use",
    "tokens_per_image": "tokens per image",
    "bits_per_pixel": "bits per pixel",
    "bits_per_pixel_entropy": "bits per pixel, by entropy",
    "probe_codes": "linear probe of codes (top-1)",
    "probe_latents": "linear probe of latents (top-1)",
}


def title(name: str) -> str:
    """A metric's name for people."""
    return _TITLES.get(name, name)


def number(value: float) -> str:
    """Four digits, and no more than that."""
    return f"{value:,.0f}" if value >= 1000 or value == int(value) > 1 else f"{value:#.4g}"


def reasons(absent: Mapping[str, str], called: Callable[[str], str] = title) -> list[str]:
    """Why metrics are missing, a line for each reason.

    Args:
        absent: Reasons by name.
        called: What a name is called; ``str`` = as it is typed.

    Example:
        >>> reasons({"rfid": "no weights", "psnr": "no images", "kid": "no weights"})
        ['rfid, kid: no weights', 'PSNR (dB): no images']
    """
    names: dict[str, list[str]] = {}
    for name, reason in absent.items():
        names.setdefault(reason, []).append(called(name))
    return [f"{', '.join(own)}: {reason}" for reason, own in names.items()]


def is_stand_in(name: str) -> bool:
    """Whether no published number can be compared with this one."""
    return "efflite0" in name or "unverified" in name or "random" in name
