"""Fabricated checkpoints of the sources that came later: transformers, and nets of transformers and convolutions."""

import torch
from safetensors.torch import save_file
from zoo.case import CNN, CODES, TRUNK, Case, with_averages, write_flat

INSTELLA = ["encoder.rotary=published", "decoder.rotary=published", "image_size=1024"]


def write_uniwetok(tensors, path):
    """Nets of the training beside what the public code reads."""
    more = {"prior.blocks.0.weight": torch.ones(2), "model_ema.priorblocks0weight": torch.ones(2)}
    torch.save({"epoch": 3, "state_dict": with_averages(tensors) | more, "loops": {}}, path)


def write_instella(tensors, path):
    """Safetensors, with the projection to DINOv2's features that training needs."""
    more = {"decoder.repa_proj.0.weight": torch.ones(2, 2)}
    save_file({name: value.contiguous() for name, value in (tensors | more).items()}, path)


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
    "instella": Case(
        ["experiment=instella_1d", *INSTELLA],
        {
            "encoder": {"width": 64, "heads": 1, "patch_size": 4, "latents": 6, "coarse_depth": 1},
            "decoder": {"width": 128, "heads": 2, "patch_size": 4, "latent_width": 64, "depth": 1},
            "quantizer": {"slot_bits": [8, 2]},
        },
        "model.safetensors",
        write_instella,
    ),
}
