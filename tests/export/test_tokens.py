"""What is exported reads back the same, and every damage to it is found."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from imtok.errors import InputError
from imtok.export.feed import BatchFeed
from imtok.export.pictures import decode_ids
from imtok.export.restore import makes_tokens_of
from imtok.export.store import TokenStore
from imtok.export.tokens import _Coded, export_tokens
from imtok.measures.spending import Spender
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

KEYS = ["a/1.png", "ü/é.png", "ü/é.png", "shard-0.tar:x\ny", "日本", "e", "f"]


@pytest.fixture
def tokenizer():
    config = {
        "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", "patch_size": 8, "width": 16, "depth": 1},
        "quantizer": {"_target_": "imtok.quantizers.vq.VQ", "dim": 4, "codebook_size": 32},
        "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", "patch_size": 8, "width": 16, "depth": 1},
    }
    return Tokenizer.from_config(config).eval()


@pytest.fixture
def images():
    return torch.randint(0, 256, (7, 3, 24, 16), dtype=torch.uint8)


def batches(images, size=3):
    for at in range(0, len(images), size):
        index = torch.arange(len(images))[at : at + size]
        yield Batch(images[index], index % 2, index, [KEYS[i] for i in index.tolist()])


@pytest.fixture
def exported(tokenizer, images, tmp_path):
    export_tokens(tokenizer, BatchFeed(batches(images), 4, classes=["even", "odd"]), tmp_path / "tokens")
    return tmp_path / "tokens"


def test_ids_labels_and_keys_read_back(exported, tokenizer, images):
    store = TokenStore(exported)
    store.verify()
    shards = list(store.shards())
    assert len(store) == 7
    assert [len(shard.keys) for shard in shards] == [4, 3]
    assert [key for shard in shards for key in shard.keys] == KEYS
    assert np.concatenate([shard.labels for shard in shards]).tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert store.classes == ["even", "odd"]
    ids = np.concatenate([shard.ids for shard in shards])
    assert ids.dtype == np.uint16
    expected = [tokenizer.encode(to_float(batch.image)).ids for batch in batches(images)]
    assert np.array_equal(ids, torch.cat(expected)[:, None].numpy())


def test_the_codebook_decodes_the_ids(exported, tokenizer):
    table = load_file(exported / "codebook.safetensors")["slot_0"]
    ids = torch.from_numpy(np.load(exported / "ids-00000.npy", allow_pickle=False).astype(np.int64))
    assert torch.equal(table[ids[..., 0]], tokenizer.quantizer.decode(ids).detach())


def test_the_manifest_describes_the_ids(exported, tokenizer):
    manifest = json.loads((exported / "manifest.json").read_text())
    assert manifest["vocab_sizes"] == [32]
    assert manifest["bits_per_token"] == 5
    assert (manifest["images"], manifest["tokens"], manifest["shards"]) == (7, 6, 2)
    assert manifest["tokenizer_sha256"] == tokenizer.fingerprint()
    assert set(manifest["files"]) == {path.name for path in exported.iterdir()} - {"manifest.json"}


def test_a_large_vocabulary_is_stored_in_32_bits(tmp_path, images):
    parts = {
        "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", "patch_size": 8, "width": 16, "depth": 1},
        "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 8, 8, 8, 8, 4]},
        "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", "patch_size": 8, "width": 16, "depth": 1},
    }
    export_tokens(Tokenizer.from_config(parts), BatchFeed(batches(images)), tmp_path / "tokens")
    assert np.load(tmp_path / "tokens/ids-00000.npy", allow_pickle=False).dtype == np.uint32


def test_every_altered_or_missing_or_foreign_file_is_named(exported):
    for path in sorted(exported.iterdir()):
        if path.name == "manifest.json":
            continue
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(InputError, match=f"{path.name} was altered"):
            TokenStore(exported).verify()
        path.unlink()
        with pytest.raises(InputError, match=f"{path.name} is missing"):
            TokenStore(exported).verify()
        path.write_bytes(whole)
    TokenStore(exported).verify()
    (exported / "ids-00002.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"ids-00002\.npy is not in manifest"):
        TokenStore(exported).verify()


def test_an_error_midway_leaves_no_store_but_what_was_whole(tokenizer, images, tmp_path):
    def failing():
        yield from batches(images[:4])
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        export_tokens(tokenizer, BatchFeed(failing(), 2), tmp_path / "tokens")
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.partial"]
    assert (tmp_path / "tokens.partial/shard-00000.json").is_file()


def test_a_foreign_folder_is_refused(tokenizer, images, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="already holds something else"):
        export_tokens(tokenizer, BatchFeed(batches(images)), tmp_path)


def test_a_decoder_that_was_trained_further_decodes_the_ids_that_others_learned_from(exported, tmp_path, tokenizer):
    decode_ids(tokenizer, exported, tmp_path / "before", (24, 16))
    whole, codes = tokenizer.fingerprint(), tokenizer.codes_fingerprint()
    with torch.no_grad():
        tokenizer.decoder.last_layer.add_(1)
    assert (
        tokenizer.codes_fingerprint() == codes == json.loads((exported / "manifest.json").read_text())["codes_sha256"]
    )
    assert tokenizer.fingerprint() != whole
    assert decode_ids(tokenizer, exported, tmp_path / "after", (24, 16)) == 7
    first = [(tmp_path / folder / "000000.png").read_bytes() for folder in ("before", "after")]
    assert first[0] != first[1]
    with torch.no_grad():
        next(tokenizer.encoder.parameters()).add_(1)
    with pytest.raises(InputError, match="was exported with another tokenizer"):
        decode_ids(tokenizer, exported, tmp_path / "pictures", (24, 16))


def test_a_store_of_an_earlier_version_is_decoded_by_its_own_tokenizer_alone(tokenizer):
    about = {"tokenizer_sha256": tokenizer.fingerprint()}
    assert makes_tokens_of(tokenizer, about)
    with torch.no_grad():
        tokenizer.decoder.last_layer.add_(1)
    assert not makes_tokens_of(tokenizer, about)


def test_ids_of_another_tokenizer_are_refused(exported, tmp_path, tokenizer):
    with torch.no_grad():
        tokenizer.quantizer.weight += 1
    with pytest.raises(InputError, match="was exported with another tokenizer"):
        decode_ids(tokenizer, exported, tmp_path / "pictures", (24, 16))
    assert not (tmp_path / "pictures").exists()


@pytest.mark.parametrize("shape", [(5, 6, 1), (5, 6), (1, 5, 6), (6,), (2, 3, 6, 1)])
@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.int32])
def test_ids_of_a_generator_decode_in_the_usual_shapes(tokenizer, tmp_path, shape, dtype):
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, 32, shape).astype(dtype))
    count = decode_ids(tokenizer, tmp_path / "ids.npy", tmp_path / "pictures", (24, 16), batch_size=2)
    assert count == np.prod(shape) // 6
    assert len(list((tmp_path / "pictures").glob("*.png"))) == count


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 6), 32), r"ids of slot 0 must lie in \[0, 32\), got 32 at token 0 of image 0"),
        (np.full((2, 6), -1), r"got -1 at token 0 of image 0"),
        (np.zeros((2, 5), dtype=np.int64), r"must end in 6 tokens x 1 slots"),
        (np.zeros((2, 6)), "must hold whole numbers, got float64"),
        (np.zeros((), dtype=np.int64), "must end in 6 tokens"),
    ],
)
def test_ids_that_cannot_be_are_refused_by_file_and_value(tokenizer, tmp_path, array, message):
    np.save(tmp_path / "ids.npy", array)
    with pytest.raises(InputError, match=r"ids\.npy.*" + message):
        decode_ids(tokenizer, tmp_path / "ids.npy", tmp_path / "pictures", (24, 16))
    assert not (tmp_path / "pictures").exists()


def test_a_file_that_is_no_array_is_refused(tokenizer, tmp_path):
    (tmp_path / "ids.npy").write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"is not an \.npy file of numbers"):
        decode_ids(tokenizer, tmp_path / "ids.npy", tmp_path / "pictures", (24, 16))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"is not an \.npy file of numbers"):
        decode_ids(tokenizer, tmp_path / "objects.npy", tmp_path / "pictures", (24, 16))


def test_a_batch_is_encoded_before_the_results_of_the_one_before_it_are_taken(tokenizer, images, tmp_path, monkeypatch):
    """So a GPU has the next batch while this process waits for the last one's ids."""
    seen: list[str] = []
    encode, arrays = Spender.encode, _Coded.arrays
    monkeypatch.setattr(Spender, "encode", lambda *given: _noted(seen, "encode", encode, *given))
    monkeypatch.setattr(_Coded, "arrays", lambda *given: _noted(seen, "take", arrays, *given))
    export_tokens(tokenizer, BatchFeed(batches(images), 7), tmp_path / "tokens")
    assert seen == ["encode", "encode", "take", "encode", "take", "take"]


@pytest.mark.cuda
def test_on_a_gpu_the_store_has_the_ids_of_encoding_batch_by_batch(tokenizer, images, tmp_path):
    export_tokens(tokenizer, BatchFeed(batches(images), 4), tmp_path / "tokens", device="cuda")
    with torch.inference_mode():
        expected = [tokenizer.cuda().encode(to_float(batch.image.cuda())).ids.cpu() for batch in batches(images)]
    found = np.concatenate([shard.ids for shard in TokenStore(tmp_path / "tokens").shards()])
    assert np.array_equal(found, torch.cat(expected)[:, None].numpy())


def _noted(seen, name, action, *given):
    seen.append(name)
    return action(*given)
