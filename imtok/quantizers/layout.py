"""How the ids of a quantizer stand for latents, for whoever reads its codebook or its tokens elsewhere."""

import math
from typing import Any

from imtok.quantizers.base import Quantizer


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
