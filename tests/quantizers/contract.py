"""Every quantizer that the contract tests run over: one per YAML file, and a few nested ones."""

from pathlib import Path

import yaml

from imtok.quantizers.base import Quantizer
from imtok.quantizers.composition import fixed_length
from imtok.tokenizer import construct

CONFIGS = Path(__file__).parents[2] / "configs" / "quantizer"

_Q = "imtok.quantizers"
_GRID = {"_target_": f"{_Q}.fsq.FSQ", "levels": [5, 5]}
_TABLE = {"_target_": f"{_Q}.vq.VQ", "dim": 4, "codebook_size": 64, "normalize": False, "restart_below": 0.1}
_DEPTHS = {"_target_": f"{_Q}.residual.Residual", "stages": [_GRID], "depth": 3, "ratio": 0.25, "bound": 1.25}
_TABLES = {"_target_": f"{_Q}.residual.Residual", "stages": [_TABLE, _TABLE]}
_PAIR = {"_target_": f"{_Q}.product.Product", "parts": [_TABLE, _TABLE], "disentangle_weight": 0.1}
NESTED = {
    "product_of_residual_of_grid": {"_target_": f"{_Q}.product.Product", "parts": [_DEPTHS, _TABLES]},
    "residual_of_product": {"_target_": f"{_Q}.residual.Residual", "stages": [_PAIR], "depth": 2},
    "multi_scale_of_residual": {"_target_": f"{_Q}.multiscale.MultiScale", "quantizer": _TABLES, "sizes": [1, 2, 4]},
    "segments_of_product": {"_target_": f"{_Q}.segments.Segments", "parts": [_PAIR, _DEPTHS | {"depth": 2}], "lengths": [5, 7]},
}
NAMES = [*sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "continuous")  # it has no ids