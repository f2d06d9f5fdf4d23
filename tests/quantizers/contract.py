"""Every quantizer that the contract tests run over: one per YAML file, and a few nested ones."""

from pathlib import Path
from typing import Any

from torch import Tensor

from imtok.construct import construct
from imtok.options import option
from imtok.quantizers.base import Quantizer
from imtok.quantizers.statistics import merge_stats

CONFIGS = Path(__file__).parents[2] / "configs" / "quantizer"

_Q = "imtok.quantizers"
_GRID = {"_target_": f"{_Q}.fsq.FSQ", "levels": [5, 5]}
_TABLE = {"_target_": f"{_Q}.vq.VQ", "dim": 4, "codebook_size": 64, "normalize": False}
_TABLE |= {"restart_below": 0.1, "usage_decay": 0.9}
_BITS = {"_target_": f"{_Q}.binary.Binary", "slot_bits": [3], "confidence_weight": 0.1}
_DEPTHS = {"_target_": f"{_Q}.residual.Residual", "stages": [_GRID], "depth": 2, "ratio": 0.25, "bound": 1.25}
_TABLES = {"_target_": f"{_Q}.residual.Residual", "stages": [_TABLE, _TABLE]}
_PAIR = {"_target_": f"{_Q}.product.Product", "parts": [_TABLE, _TABLE], "disentangle_weight": 0.1}
_SCALES = {"_target_": f"{_Q}.multiscale.MultiScale", "sizes": [1, 2, 4], "convolutions": 3}
NESTED: dict[str, dict[str, Any]] = {
    "product_of_residual_of_grid": {"_target_": f"{_Q}.product.Product", "parts": [_DEPTHS, _TABLES]},
    "residual_of_product": {"_target_": f"{_Q}.residual.Residual", "stages": [_PAIR], "depth": 2},
    "residual_with_beam": {"_target_": f"{_Q}.residual.Residual", "stages": [_TABLE], "depth": 3, "beam": 3},
    "multi_scale_of_residual": _SCALES | {"quantizer": _TABLES},
    "product_of_draws": {"_target_": f"{_Q}.product.Product", "parts": [_BITS, _TABLE]},
    "segments_of_product": {"_target_": f"{_Q}.segments.Segments", "parts": [_PAIR, _TABLES], "lengths": [9, 3]},
}
WITHOUT_IDS = ["continuous", "gaussian", "gaussian_target"]
PRESETS = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem not in WITHOUT_IDS)
NAMES = [*PRESETS, *NESTED]
MOST = {"codebook_size": 64, "convolutions": 3}
SMALLER = {"sizes": [1, 2, 4], "lengths": [8, 24], "entropy_bits": 6}


def config(name: str) -> dict[str, Any]:
    """The plain values of ``configs/quantizer/NAME.yaml`` or of a nested quantizer."""
    return NESTED[name] if name in NESTED else option("quantizer", name)


def build(name: str) -> Quantizer:
    """The quantizer of that name."""
    return construct(config(name))


def smaller(settings: Any) -> Any:
    """The same preset with at most 64 codes per table and 32 latents per image: quick, and 2,000 vectors use it."""
    if isinstance(settings, list):
        return [smaller(item) for item in settings]
    if not isinstance(settings, dict):
        return settings
    reduced = {key: smaller(value) for key, value in settings.items()}
    reduced |= {key: min(settings[key], most) for key, most in MOST.items() if key in settings}
    return reduced | {key: value for key, value in SMALLER.items() if key in settings}


def together(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The statistics of several micro-batches, as those of one step."""
    merged: dict[str, Tensor] = {}
    for part in parts:
        merge_stats(merged, part)
    return merged


def without_last_bits(stats: dict[str, Tensor]) -> dict[str, Tensor]:
    """Statistics without the column that tells tokens apart by their last bits, which rounding changes."""
    return {
        name: value[:, [0, *range(2, value.shape[1])]] if name.endswith("drawn") else value
        for name, value in stats.items()
    }


def length(quantizer: Quantizer) -> int:
    """A number of latents that the quantizer takes."""
    return quantizer.num_latents or 12


def any_length(quantizer: Quantizer) -> bool:
    """Whether each latent is quantized by itself, so that they may come in any number and order."""
    return quantizer.num_latents is None


def multi_scale(quantizer: Quantizer) -> bool:
    """Whether a token stands for part of several latents."""
    return quantizer.num_tokens(length(quantizer)) != length(quantizer)
