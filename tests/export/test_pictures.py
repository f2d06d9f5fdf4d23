"""Decoded pictures are the tokenizer's own reconstructions, to the last bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor
from typing_extensions import override

from imtok.decoders.patch import PatchDecoder
from imtok.encoders.patch import PatchEncoder
from imtok.errors import InputError
from imtok.export.codebook import read_codebook
from imtok.export.feed import BatchFeed
from imtok.export.pictures import decode_ids
from imtok.export.store import TokenStore
from imtok.export.tokens import export_tokens
from imtok.pixels import to_float, to_uint8
from imtok.quantizers.base import Quantizer
from imtok.quantizers.fsq import FSQ
from imtok.tokenizer import Tokenizer
from imtok.types import Batch, Condition, Quantized

PART = {"patch_size": 8, "width": 16, "depth": 1}
CONFIG = {
    "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", **PART},
    "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 5, 5]},
    "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", **PART},
}


class VaryingEncoder(PatchEncoder):
    """Keeps between one and six latents: how many is a matter of the first pixel."""

    @override
    def forward(self, image: Tensor, length: int | None = None, condition: Condition | None = None):
        latents = super().forward(image)
        return replace(latents, keep=torch.arange(6) <= image[:, 0, 0, :1].mul(1000).long() % 6)


class MaskedDecoder(PatchDecoder):
    """Takes latents that are not transmitted as the zeros that they are."""

    @override
    def forward(
        self, latents: Tensor, size: tuple[int, int], keep: Tensor | None = None, condition: Condition | None = None
    ):
        return super().forward(latents, size)


class TwoSlots(Quantizer):
    """Two grids side by side: 3 and 1000 ids."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList([FSQ([3]), FSQ([10, 10, 10])])
        self.dim, self.vocab_sizes = 4, (3, 1000)

    @override
    def quantize(self, latents: Float[Tensor, "b n d"], keep: Tensor | None) -> Quantized:
        low, high = self.parts[0](latents[..., :1]), self.parts[1](latents[..., 1:])
        return Quantized(torch.cat([low.latents, high.latents], -1), torch.cat([low.ids, high.ids], -1))

    @override
    def decode(self, ids: Int64[Tensor, "b t g"], slots: int | None = None) -> Float[Tensor, "b n d"]:
        return torch.cat([self.parts[0].decode(ids[..., :1]), self.parts[1].decode(ids[..., 1:])], -1)

    @override
    def codebook(self) -> list[Float[Tensor, "v d"]]:
        low, high = self.parts[0].codebook()[0], self.parts[1].codebook()[0]
        pad = torch.nn.functional.pad
        return [pad(low, (0, 3)), pad(high, (1, 0))]

    @override
    def neighbours(self, ids: Tensor, count: int) -> Tensor:
        raise NotImplementedError


@pytest.fixture(params=["fixed", "learned", "varying", "two slots"])
def tokenizer(request):
    if request.param == "fixed":
        return Tokenizer.from_config(CONFIG).eval()
    if request.param == "learned":
        learned = {"_target_": "imtok.quantizers.vq.VQ", "dim": 4, "codebook_size": 32}
        return Tokenizer.from_config({**CONFIG, "quantizer": learned}).eval()
    quantizer = TwoSlots() if request.param == "two slots" else FSQ([8, 5, 5])
    encoder = VaryingEncoder if request.param == "varying" else PatchEncoder
    return Tokenizer(
        encoder(**PART, out_dim=quantizer.dim), quantizer, MaskedDecoder(**PART, in_dim=quantizer.dim)
    ).eval()


@pytest.fixture
def plain():
    return Tokenizer.from_config(CONFIG).eval()


def batches(sizes=(4, 4, 1)):
    images = torch.randint(0, 256, (9, 3, 24, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for index in torch.arange(sum(sizes)).split(list(sizes)):
        yield Batch(images[index], torch.full_like(index, -1), index, [f"{number}.png" for number in index.tolist()])


def read_pictures(folder):
    pictures = [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]
    return torch.from_numpy(np.moveaxis(np.stack(pictures), -1, 1))


@torch.no_grad()
def reconstructions(tokenizer):
    return torch.cat([to_uint8(tokenizer(to_float(batch.image)).image) for batch in batches()])


@pytest.mark.parametrize("shard_size", [4, 8, 100])
def test_decoded_pictures_are_the_reconstructions_bit_for_bit(tokenizer, tmp_path, shard_size):
    export_tokens(tokenizer, BatchFeed(batches(), shard_size), tmp_path / "tokens")
    assert decode_ids(tokenizer, tmp_path / "tokens", tmp_path / "pictures", (24, 16)) == 9
    assert torch.equal(read_pictures(tmp_path / "pictures"), reconstructions(tokenizer))


def test_one_shard_decodes_with_its_masks(tokenizer, tmp_path):
    export_tokens(tokenizer, BatchFeed(batches(), 4), tmp_path / "tokens")
    assert decode_ids(tokenizer, tmp_path / "tokens/ids-00001.npy", tmp_path / "pictures", (24, 16)) == 4
    assert torch.equal(read_pictures(tmp_path / "pictures"), reconstructions(tokenizer)[4:8])


def test_decoded_floats_are_the_reconstructions_bit_for_bit(tokenizer, tmp_path):
    export_tokens(tokenizer, BatchFeed(batches(), 8), tmp_path / "tokens")
    stored = TokenStore(tmp_path / "tokens").batches(4)
    for batch, tokens in zip(batches(), stored, strict=True):
        with torch.no_grad():
            expected = tokenizer(to_float(batch.image)).image.clamp(-1, 1)
        assert torch.equal(tokenizer.decode(tokens, (24, 16)), expected)


def test_the_tables_add_up_to_the_latents(tokenizer, tmp_path):
    export_tokens(tokenizer, BatchFeed(batches()), tmp_path / "tokens")
    store = TokenStore(tmp_path / "tokens")
    store.verify()
    tables, (tokens,) = read_codebook(tmp_path / "tokens/codebook.safetensors"), store.batches(9)
    looked_up = torch.stack([table[tokens.ids[..., slot]] for slot, table in enumerate(tables)]).sum(0)
    assert torch.equal(looked_up, tokenizer.quantizer.decode(tokens.ids))
    places = store.manifest["places"]
    sizes = store.manifest["vocab_sizes"]
    numbers = (tokens.ids * torch.tensor(places)).sum(-1)
    assert torch.equal(numbers // places[-1], tokens.ids[..., -1])
    assert torch.equal(numbers % sizes[0], tokens.ids[..., 0])


def test_grids_and_large_types_of_a_generator_decode_as_well(plain, tmp_path):
    ids = np.random.default_rng(0).integers(0, 200, (2, 6))
    np.save(tmp_path / "rows.npy", ids)
    decode_ids(plain, tmp_path / "rows.npy", tmp_path / "expected", (24, 16))
    np.save(tmp_path / "grid.npy", ids.reshape(2, 3, 2).astype(np.uint64))
    decode_ids(plain, tmp_path / "grid.npy", tmp_path / "pictures", (24, 16))
    assert torch.equal(read_pictures(tmp_path / "pictures"), read_pictures(tmp_path / "expected"))


def test_an_id_beyond_64_bits_is_named_as_it_is(plain, tmp_path):
    ids = np.zeros((2, 6), np.uint64)
    ids[1, 4] = 2**64 - 1
    np.save(tmp_path / "ids.npy", ids)
    with pytest.raises(InputError, match=r"got 18446744073709551615 at token 4 of image 1"):
        decode_ids(plain, tmp_path / "ids.npy", tmp_path / "pictures", (24, 16), batch_size=1)
    assert not (tmp_path / "pictures").exists()


def test_a_size_that_does_not_fit_is_refused_in_one_line(plain, tmp_path):
    export_tokens(plain, BatchFeed(batches()), tmp_path / "tokens")
    with pytest.raises(InputError, match="cannot be decoded to 64x64 pixels"):
        decode_ids(plain, tmp_path / "tokens", tmp_path / "pictures", (64, 64))
    np.save(tmp_path / "ids.npy", np.zeros((2, 6), np.int64))
    with pytest.raises(InputError, match="20x20 pixels do not fit the tokenizer"):
        decode_ids(plain, tmp_path / "ids.npy", tmp_path / "pictures", (20, 20))


def test_foreign_pictures_are_not_replaced(plain, tmp_path):
    np.save(tmp_path / "ids.npy", np.zeros((2, 6), np.int64))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/000000.png").write_bytes(b"a holiday")
    with pytest.raises(InputError, match="already holds something else"):
        decode_ids(plain, tmp_path / "ids.npy", tmp_path / "mine", (24, 16))
    assert (tmp_path / "mine/000000.png").read_bytes() == b"a holiday"
