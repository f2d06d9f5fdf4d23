"""How the ids of a quantizer stand for latents, for whoever reads its codebook or its tokens elsewhere."""

import math
from typing import Any

from imtok.quantizers.base import Quantizer
from imtok.quantizers.fsq import FSQ
from imtok.quantizers.multiscale import MultiScale
from imtok.quantizers.product import Product
from imtok.quantizers.residual import Residual
from imtok.quantizers.signs import SignQuantizer


def layout(quantizer: Quantizer) -> dict[str, Any]:
    """How ids stand for latents, in words and numbers."""
    latents = quantizer.num_latents
    if latents is not None and quantizer.num_tokens(latents) != latents:  # scales are enlarged before they add up
        slots = "tokens are no latents, and rows are codes of scales: only the quantizer makes latents of them"
    else:
        slots = "slot 0 stands for the first channels; latents are the sum over slots of the codebook's rows"
    return {
        "quantizer": type(quantizer).__name__,
        "latent_width": quantizer.dim,
        "vocab_sizes": list(quantizer.vocab_sizes),
        "places": [math.prod(quantizer.vocab_sizes[:slot]) for slot in range(len(quantizer.vocab_sizes))],
        "bits_per_token": quantizer.bits_per_token,
        "slots": slots,
        "digits": "inside a slot, channel 0 is the least significant digit of the id",
        "one_number": "a token as one number is the sum over slots of id times place",
    }


def structure(quantizer: Quantizer) -> dict[str, list[int]]:
    """What generators of particular quantizers must be told besides, where it is so.

    Returns:
        ``slot_bits``, the number of bits of each slot, if each channel has two values and each bit of an id is one;
        ``scales``, the side of the map at each scale, if tokens stand scale after scale.
    """
    found = {"slot_bits": _slot_bits(quantizer), "scales": _scales(quantizer)}
    return {name: list(values) for name, values in found.items() if values}


def _slot_bits(quantizer: Quantizer) -> tuple[int, ...] | None:
    if isinstance(quantizer, SignQuantizer):
        return quantizer.slot_bits
    if isinstance(quantizer, FSQ) and quantizer.vocab_sizes == (2**quantizer.dim,) and quantizer.levels.max() == 2:
        return (quantizer.dim,)
    if isinstance(quantizer, MultiScale):
        return _slot_bits(quantizer.quantizer)
    parts = [_slot_bits(part) for part in _parts(quantizer)]
    bits = tuple(size for part in parts for size in part or ())
    return bits if len(bits) == len(quantizer.vocab_sizes) else None


def _scales(quantizer: Quantizer) -> tuple[int, ...] | None:
    if isinstance(quantizer, MultiScale):
        return quantizer.sizes
    scales = {_scales(part) for part in _parts(quantizer)}
    return scales.pop() if len(scales) == 1 else None


def _parts(quantizer: Quantizer) -> list[Quantizer]:
    """The quantizers whose slots stand side by side, in the order of slots."""
    if isinstance(quantizer, Product):
        return [part for part in quantizer.parts if isinstance(part, Quantizer)]
    if isinstance(quantizer, Residual):
        stages = [stage for stage in quantizer.stages if isinstance(stage, Quantizer)]
        return stages * (quantizer.depth // len(stages))
    return []
