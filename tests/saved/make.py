"""Makes what this folder holds: tokenizers of every kind, a store and a run, as the imtok that runs it saves them.

    PYTHONPATH=CHECKOUT python tests/saved/make.py DIR

A change of what is stored, or of the names of classes, adds a folder that the commit before it has made. Folders that
are there stay as they are: whatever was saved once is read, or refused in one line.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from imtok.tokenizer import Tokenizer

SIDE = 16
PATCH = {"patch_size": 4, "width": 8, "depth": 1}
NET = {"width": 8, "depth": 1, "heads": 2}
TABLE = {"dim": 4, "codebook_size": 32}
RUN = [
    "data=folder", "data.path=images", "data.val_fraction=0.25", "image_size=16", "encoder.patch_size=4",
    "encoder.width=8", "encoder.depth=1", "decoder.patch_size=4", "decoder.width=8", "decoder.depth=1",
    "decoder.up_channels=[8]", "quantizer.codebook_size=32", "quantizer.dim=4", "trainer.batch_size=4",
    "trainer.max_steps=4", "trainer.threads=1", "trainer.pictures_every=0", "trainer.evaluate_every=0",
]  # fmt: skip


def patches(quantizer):
    """A tokenizer of 4 x 4 latents around a quantizer."""
    return {
        "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", **PATCH},
        "quantizer": quantizer,
        "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", **PATCH},
        "image_size": SIDE,
    }


def flow(space, patch_size):
    """A tokenizer of up to 4 tokens whose decoder draws in a space."""
    return {
        "encoder": {
            "_target_": "imtok.encoders.registers.RegisterEncoder", "reads": "space", "latents": 4,
            "patch_size": patch_size, **NET,
        },
        "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 5, 5]},
        "regularizer": {"_target_": "imtok.regularizers.prefix.NestedDropout"},
        "decoder": {"_target_": "imtok.decoders.flow.FlowDecoder", "patch_size": patch_size, "steps": 2, **NET},
        "space": space,
        "image_size": SIDE,
    }  # fmt: skip


def quantizer(name, **settings):
    return {"_target_": f"imtok.quantizers.{name}", **settings}


TOKENIZERS = {
    "vq": patches(quantizer("vq.VQ", **TABLE)),
    "ema_vq": patches(quantizer("ema_vq.EMAVQ", **TABLE)),
    "simvq": patches(quantizer("simvq.SimVQ", **TABLE)),
    "ibq": patches(quantizer("ibq.IBQ", **TABLE)),
    "fsq": patches(quantizer("fsq.FSQ", levels=[8, 5, 5, 5])),
    "lfq": patches(quantizer("lfq.LFQ", slot_bits=[6])),
    "bsq": patches(quantizer("bsq.BSQ", slot_bits=[4, 4])),
    "residual": patches(quantizer("residual.Residual", stages=[quantizer("ema_vq.EMAVQ", **TABLE)], depth=3)),
    "product": patches(
        quantizer("product.Product", parts=[quantizer("vq.VQ", **TABLE), quantizer("fsq.FSQ", levels=[5])])
    ),
    "multiscale": patches(
        quantizer("multiscale.MultiScale", quantizer=quantizer("vq.VQ", **TABLE), sizes=[1, 2, 4], convolutions=2)
    ),
    "tokenbridge": patches(quantizer("tokenbridge.TokenBridge", dim=4, bits=4)),
    "continuous": patches(quantizer("continuous.Continuous", dim=4)),
    "told": {
        "encoder": {"_target_": "imtok.encoders.titok.TiTokEncoder", "latents": 4, "patch_size": 4, **NET},
        "quantizer": quantizer("vq.VQ", **TABLE),
        "decoder": {
            "_target_": "imtok.decoders.titok.TiTokPixelDecoder",
            "patch_size": 4,
            "context_dim": 8,
            "context_length": 4,
            **NET,
        },
        "condition": {"_target_": "imtok.conditions.words.Words", "dim": 8, "length": 4, "buckets": 64},
        "image_size": SIDE,
    },
    "flexible": flow({"_target_": "imtok.spaces.patches.Patches", "factor": 2, "scale": 2.0}, 2),
}


def images():
    """Four images in [-1, 1], the same everywhere, and a text about each."""
    draw = np.random.Generator(np.random.Philox(0))
    coarse = torch.from_numpy(draw.random((4, 3, 4, 4), dtype=np.float32))
    return torch.nn.functional.interpolate(coarse, scale_factor=4) * 2 - 1, ["a red box", "", "two dogs", "sky"]


def outcome(tokenizer):
    """What a tokenizer makes of the images: ids and reconstructions."""
    image, captions = images()
    condition = tokenizer.condition_for(len(image), captions) if hasattr(tokenizer, "condition_for") else None
    with torch.no_grad():
        reconstruction = tokenizer(image, condition=condition)
    return {"ids": reconstruction.quantized.ids.contiguous(), "image": reconstruction.image.contiguous()}


def main(out):
    """Make the folder."""
    for seed, (name, config) in enumerate(TOKENIZERS.items()):
        torch.manual_seed(seed)
        tokenizer = Tokenizer.from_config(config).eval()
        tokenizer.save(out / "tokenizers" / name)
        save_file(outcome(tokenizer), out / "tokenizers" / name / "outcome.safetensors")
    (out / "images").mkdir()
    for index, image in enumerate((images()[0].repeat(2, 1, 1, 1) + 1) * 127.5):
        Image.fromarray(image.byte().permute(1, 2, 0).numpy()).save(out / "images" / f"{index}.png")
    command = [sys.executable, "-m", "imtok"]

    def run(*words):
        subprocess.run([*command, *words], cwd=out, check=True)

    run("train", *RUN, "out=whole")
    shutil.copyfile(out / "whole/tokenizer/model.safetensors", out / "whole.safetensors")
    run("train", *RUN, "out=run", "trainer.stop_at=2", "trainer.save_every=2")
    run("export", "tokenizer=tokenizers/fsq", "data=folder", "data.path=images", "split=all", "out=store")
    run("decode", "tokenizer=tokenizers/fsq", "ids=store", "out=decoded")
    shutil.rmtree(out / "whole")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
