"""Small tokenizers, images and stores for the tests of export."""

from dataclasses import replace
from pathlib import Path

import torch
from typing_extensions import override

from imtok.data.sources.folder import Folder
from imtok.decoders.patch import PatchDecoder
from imtok.encoders.patch import PatchEncoder
from imtok.export.feed import BatchFeed, Feed, ListFeed
from imtok.export.store import TokenStore
from imtok.export.tokens import export_tokens
from imtok.export.views import Views
from imtok.quantizers.fsq import FSQ
from imtok.quantizers.product import Product
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

PART = {"patch_size": 8, "width": 16, "depth": 1}
VQ = {"_target_": "imtok.quantizers.vq.VQ", "dim": 4, "codebook_size": 32}
LFQ = {"_target_": "imtok.quantizers.lfq.LFQ", "slot_bits": [3, 2]}
SCALES = {"_target_": "imtok.quantizers.multiscale.MultiScale", "quantizer": VQ, "sizes": [1, 2], "convolutions": 2}
BINARY_SCALES = {**SCALES, "quantizer": {"_target_": "imtok.quantizers.bsq.BSQ", "slot_bits": [6]}}
FSQ_PART = {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [5, 4]}
PRODUCT = {"_target_": "imtok.quantizers.product.Product", "parts": [VQ, FSQ_PART]}
FIXED = {
    "one slot": VQ,
    "two slots": PRODUCT,  # of 32 and 20 ids
    "binary": LFQ,
    "scales": SCALES,
    "binary scales": BINARY_SCALES,
    "two branches": {"_target_": "imtok.quantizers.product.Product", "parts": [SCALES, SCALES]},
}
PARTS = {
    "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", **PART},
    "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", **PART},
    "image_size": 16,
}
HOSTILE = ["../x", "/etc/x", "a/../../b", "\0", "k" * 300, "caf\u00e9", "cafe\u0301", "CON", "a\n\u2028b", ".", ""]


class ShortEncoder(PatchEncoder):
    """Leaves out from none to all but one of the latents at the end: how many is a matter of the first pixel."""

    @override
    def forward(self, image, length=None, condition=None):
        latents = super().forward(image)
        number = latents.values.shape[1]
        return replace(latents, keep=torch.arange(number) <= image[:, 0, 0, :1].mul(1000).long() % number)


class MaskedDecoder(PatchDecoder):
    """Takes latents that are not transmitted as the zeros that they are."""

    @override
    def forward(self, latents, size, keep=None, condition=None):
        return super().forward(latents, size)


def tokenizer_of(kind: str) -> Tokenizer:
    """One of FIXED, or "variable" (one slot), "variable two" (slots) or "variable binary"."""
    torch.manual_seed(1)
    if kind in FIXED:
        return Tokenizer.from_config({**PARTS, "quantizer": FIXED[kind]}).eval()
    own = PRODUCT if "two" in kind else LFQ if "binary" in kind else VQ
    quantizer = Tokenizer.from_config({**PARTS, "quantizer": own}).quantizer
    assert isinstance(quantizer, Product if "two" in kind else object)
    assert not isinstance(quantizer, FSQ)
    encoder, decoder = ShortEncoder(**PART, out_dim=quantizer.dim), MaskedDecoder(**PART, in_dim=quantizer.dim)
    return Tokenizer(encoder, quantizer, decoder).eval()


def set_tokenizer(codes: int = 16) -> Tokenizer:
    """Of eight tokens without an order."""
    torch.manual_seed(1)
    encoder = {"_target_": "imtok.encoders.titok.TiTokEncoder", "latents": 8, "latent_positions": "none"}
    decoder = {"_target_": "imtok.decoders.tokenset.TokenSetDecoder", "feature_dim": 8, "channels": 8, "blocks": 1}
    width = {"width": 16, "depth": 1, "heads": 2, "start": "xavier"}
    parts = {
        "encoder": {**encoder, **width, "patch_size": 8},
        "decoder": {**decoder, **width, "multipliers": [1, 1, 1, 1]},
        "quantizer": {**VQ, "codebook_size": codes},
        "image_size": 16,
    }
    return Tokenizer.from_config(parts).eval()


def batches(keys: list[str], labels: list[int] | None = None, side: int = 16, size: int = 4):
    """Random images of such names."""
    pixels = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (len(keys), 3, side, side), dtype=torch.uint8, generator=pixels)
    classes = torch.tensor(labels if labels is not None else [number % 3 for number in range(len(keys))])
    for index in torch.arange(len(keys)).split(size):
        yield Batch(images[index], classes[index], index, [keys[number] for number in index.tolist()])


def small_store(
    folder: Path, kind: str = "one slot", augment: str = "centre", keys: list[str] | None = None, **settings
) -> TokenStore:
    """A store of seven images in shards of three."""
    views = Views(augment)
    names = [f"{number}.png" for number in range(7)] if keys is None else keys
    feed = BatchFeed(batches(names, side=views.square(16), **settings), 3, ["ant", "bee", "cat"], side=views.square(16))
    export_tokens(tokenizer_of(kind), feed, folder, views)
    return TokenStore(folder)


def folder_feed(images: Path, shard_size: int = 3, batch_size: int = 2, augment: str = "centre") -> Feed:
    """The images of a folder, 16 pixels a side."""
    found = Folder(images).evaluation(Views(augment).square(16))
    return ListFeed(found, shard_size, batch_size)  # type: ignore[arg-type]


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
