"""What an evaluation is asked to find."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imtok.errors import InputError
from imtok.measures.frechet import Gaussian
from imtok.measures.protocol import Protocol

METRICS = {
    "psnr": "peak signal-to-noise ratio",
    "ssim": "structural similarity",
    "msssim": "the same at five scales",
    "lpips": "perceptual distance, AlexNet (weights needed)",
    "lpips_vgg": "perceptual distance, VGG (weights needed)",
    "codes": "codebook usage, entropy, bits per pixel",
    "positions": "entropy at each position of the sequence",
    "rfid": "Fréchet distance of the protocol's extractor",
    "kid": "kernel distance of the protocol's extractor",
    "is": "inception score of the reconstructions",
    "fdd": "Fréchet distance of DINOv2 features (weights needed)",
    "pfid": "Fréchet distance after perturbing tokens",
    "rate": "quality against number of tokens, and against JPEG, WebP and AVIF",
    "length": "tokens that an image needs for a given PSNR",
    "language": "Zipf, Heaps, entropy rates, compression",
    "looks": "what codes look like",
    "probe": "linear probe of codes and latents",
}
DEFAULT = ("psnr", "ssim", "codes")


@dataclass(frozen=True)
class Settings:
    """Which metrics, and how.

    Attributes:
        metrics: Names from ``METRICS``.
        protocol: Of everything that an extractor sees.
        weights: "ema" or "raw": which weights are measured, part of every number's protocol id.
        reference: Statistics for rFID and pFID; None = the originals of the same pass.
        reference_name: What these statistics are of, by hash.
        pfid_alphas: Parts of the tokens that are perturbed. The default grid is the paper's from memory, unverified.
        pfid_deltas: Numbers of neighbours.
        lengths: Numbers of tokens for "rate"; None = powers of two and all.
        length_target: PSNR in dB for "length".
        backbone: Weight file of LPIPS; None = torchvision's in the cache of ``torch.hub``.
        dino: Weight file of DINOv2; None = timm's in the cache of the Hugging Face hub.
        cache: A folder for statistics of originals; None = they are computed in every pass.
        data: What the originals are, as a cache must know before it reads them; empty = nothing is cached.
        seed: Of perturbations and shuffles.
        skip_missing: Leave out what cannot be had, and say why; False = refuse it before the first image.
        untold: Measure images that lack what the tokenizer's condition reads, and say how many; False = refuse them.
        condition: What a command told the tokenizer of all images, part of every number's protocol id.

    Raises:
        InputError: If a metric is unknown.
    """

    metrics: Sequence[str] = DEFAULT
    protocol: Protocol = field(default_factory=Protocol)
    weights: str = "ema"
    reference: Gaussian | None = None
    reference_name: str = "originals of the same pass"
    pfid_alphas: Sequence[float] = (0.9, 0.8, 0.7, 0.6, 0.5)
    pfid_deltas: Sequence[int] = (200, 280, 360)
    lengths: Sequence[int] | None = None
    length_target: float = 25.0
    backbone: Path | None = None
    dino: Path | None = None
    cache: Path | None = None
    data: str = ""
    seed: int = 0
    skip_missing: bool = False
    untold: bool = False
    condition: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problem = check_metrics(self.metrics)
        if problem:
            raise InputError(problem)


def check_metrics(names: Sequence[str]) -> str | None:
    """What is wrong with a list of metrics, in a line."""
    for name in names:
        if name not in METRICS:
            close = difflib.get_close_matches(str(name), METRICS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(METRICS)}"
            return f"metrics: there is no {name}; {hint}"
    return None if names else f"metrics must name at least one of {', '.join(METRICS)}"
