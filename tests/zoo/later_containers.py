"""Fabricated checkpoints of the sources that came later: transformers, and nets of transformers and convolutions."""

import torch
from zoo.case import CNN, CODES, TRUNK, Case, with_averages, write_flat


def write_uniwetok(tensors, path):
    """Nets of the training beside what the public code reads."""
    more = {"prior.blocks.0.weight": torch.ones(2), "model_ema.priorblocks0weight": torch.ones(2)}
    torch.save({"epoch": 3, "state_dict": with_averages(tensors) | more, "loops": {}}, path)


LATER = {
    "uniwetok": Case(
        ["experiment=uniwetok"],
        {
            "encoder": CNN | {"blocks": 1, "attention_blocks": 1},
            "decoder": CNN | {"blocks": 1, "attention_blocks": 1},
            "quantizer": {"groups": 2},
        },
        "uniwetok.ckpt",
        write_uniwetok,
    ),
    "tokenset": Case(
        ["experiment=tokenset"],
        {
            "encoder": TRUNK | {"latents": 6, "patch_size": 4},
            "decoder": TRUNK | {"feature_dim": 12, "channels": 32, "multipliers": [1, 1, 2], "groups": 32},
            "quantizer": CODES,
            "image_size": 16,
        },
        "tokenset.bin",
        write_flat,
    ),
}
