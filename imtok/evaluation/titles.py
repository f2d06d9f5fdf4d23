"""How numbers are called and written for people."""

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
# of what is better when it is smaller; of code statistics nothing is
LOWER_IS_BETTER = ("lpips", "rfid", "fid", "fd_", "pfid", "pfd", "kid")


def title(name: str) -> str:
    """A metric's name for people."""
    return _TITLES.get(name, name)


def number(value: float) -> str:
    """Four digits, and no more than that."""
    return f"{value:,.0f}" if value >= 1000 or value == int(value) > 1 else f"{value:#.4g}"


def is_stand_in(name: str) -> bool:
    """Whether no published number can be compared with this one."""
    return "efflite0" in name or "unverified" in name or "random" in name


def lower_is_better(name: str) -> bool:
    """Whether a smaller value is the better one."""
    return name.startswith(LOWER_IS_BETTER)
