"""A small tokenizer of rectified flow."""

import torch

TRUNK = {"width": 32, "depth": 1, "heads": 2}


CONFIG = {
    "encoder": {"_target_": "imtok.encoders.registers.RegisterEncoder", "latents": 4, **TRUNK},
    "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 5, 5]},
    "regularizer": {"_target_": "imtok.regularizers.prefix.NestedDropout", "law": "powers_of_two"},
    "decoder": {"_target_": "imtok.decoders.flow.FlowDecoder", "steps": 2, **TRUNK},
    "space": {
        "_target_": "imtok.spaces.kl_vae.KLAutoencoder",
        "dim": 4, "channels": 16, "multipliers": [1, 2], "blocks": 1, "scale": 4.0,
    },
    "image_size": 16,
}  # fmt: skip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)
