"""A small KARL."""

import torch

from imtok.tokenizer import Tokenizer

SIZES = {"width": 24, "depth": 1, "heads": 2}


NET = {"channels": 16, "multipliers": [1, 2, 2], "blocks": 1, "codes": 8, "code_dim": 8}


KARL = {
    "encoder": {"_target_": "imtok.encoders.karl.KARLEncoder", "latents": 16, **SIZES},
    "quantizer": {"_target_": "imtok.quantizers.vq.VQ", "dim": 4, "codebook_size": 32},
    "decoder": {"_target_": "imtok.decoders.karl.KARLDecoder", **SIZES, **NET},
    "space": {"_target_": "imtok.spaces.vqgan.MAGEVQGAN", **NET},
    "image_size": 32,
}


def karl():
    """Whose halting depends on the wanted error, as after a training."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_config(KARL).eval()
    with torch.no_grad():
        tokenizer.encoder.wanted.normal_()
        for weight in (*tokenizer.encoder.trunk.parameters(), *tokenizer.encoder.halting.parameters()):
            if weight.ndim == 2:
                weight.normal_(std=0.3)
    return tokenizer
