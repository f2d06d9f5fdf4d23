"""A small extractor, tokenizers and images that several tests of evaluation share."""

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from imtok.extractors.base import Extractor, Features
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

PATCH = {"patch_size": 8, "width": 16, "depth": 1}
VQ = {"_target_": "imtok.quantizers.vq.VQ", "dim": 4, "codebook_size": 32, "normalize": False}
FSQ = {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 5]}
QUANTIZERS = {
    "vq": VQ,
    "fsq": FSQ,
    "lfq": {"_target_": "imtok.quantizers.lfq.LFQ", "slot_bits": [5, 6]},
    "residual": {"_target_": "imtok.quantizers.residual.Residual", "stages": [VQ], "depth": 3},
    "product": {"_target_": "imtok.quantizers.product.Product", "parts": [VQ, FSQ]},
    "multi-scale": {"_target_": "imtok.quantizers.multiscale.MultiScale", "quantizer": VQ, "sizes": [1, 2, 4],
                    "convolutions": 3},
    "segments": {"_target_": "imtok.quantizers.segments.Segments", "parts": [VQ, {**VQ, "codebook_size": 40}],
                 "lengths": [4, 12]},
}  # fmt: skip
SIDE = 32


class Tiny(Extractor):
    """Mean levels of the quarters of an image."""

    name = "tiny"
    hash = "0" * 64
    dim = 12

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.freeze()

    def extract(self, levels):
        features = adaptive_avg_pool2d(levels, 2).flatten(1) * self.scale / 32
        return Features(features, features[:, :5] * 2)


class Quarters(nn.Module):
    """The same for distances of torchmetrics, which hand images in [0, 1] to nets that are not theirs."""

    num_features = 12

    def forward(self, levels):
        return adaptive_avg_pool2d(levels, 2).flatten(1) * 255 / 32


def tokenizer(quantizer="vq"):
    """The same one in every process."""
    torch.manual_seed(3)
    config = {
        "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", **PATCH},
        "quantizer": QUANTIZERS[quantizer],
        "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", **PATCH},
        "image_size": SIDE,
    }
    made = Tokenizer.from_config(config).eval()
    with torch.no_grad():  # decoders start out nearly blank, and would hide what tokens do
        made.decoder.last_layer.mul_(20)
    return made


def batches(rows, size=3, total=64):
    """Some of the same images, so many at a time."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(total, 3, 4, 4, generator=generator) * 255
    images = nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear").byte()
    index = torch.tensor(list(rows), dtype=torch.int64)
    return [
        Batch(images[part], part % 2, part, [f"image {number}" for number in part.tolist()])
        for part in (index.split(size) if len(index) else ())
    ]
