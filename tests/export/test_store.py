"""A store says the same every time, and what does not fit is found even where the hashes do."""

import json

import numpy as np
import pytest
import torch

from imtok.errors import InputError
from imtok.export.codebook import LARGEST, read_codebook, write_codebook
from imtok.export.feed import BatchFeed
from imtok.export.store import MANIFEST, TokenStore
from imtok.export.tokens import export_tokens, id_type
from imtok.files import sealed, stamp, write_json
from imtok.quantizers.fsq import FSQ
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

PART = {"patch_size": 8, "width": 16, "depth": 1}
CONFIG = {
    "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", **PART},
    "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 5, 5]},
    "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", **PART},
}


@pytest.fixture
def tokenizer():
    return Tokenizer.from_config(CONFIG)


def batches(keys, size=4, bad=()):
    images = torch.randint(
        0, 256, (len(keys), 3, 24, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    for index in torch.arange(len(keys)).split(size):
        yield Batch(images[index], 1000 - index, index, [keys[number] for number in index.tolist()], list(bad))


def rewrite(folder, name, change):
    """Change a file and make all hashes fit again, as a program with a mistake would."""
    change(folder / name)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = stamp(folder / name)
    del manifest["sha256"]
    write_json(folder / MANIFEST, sealed(manifest))


def test_the_same_export_has_the_same_bytes(tokenizer, tmp_path):
    for name in "abcdef":
        export_tokens(tokenizer, BatchFeed(batches(["x", "y"])), tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert {(tmp_path / name / path.name).read_bytes() for name in "abcdef"} == {path.read_bytes()}


@pytest.mark.parametrize("key", ["../x", "a\n\r\u2028b", "caf\u00e9", "cafe\u0301", "\udcff.png", "\0", "k" * 300, ""])
def test_every_key_reads_back(tokenizer, tmp_path, key):
    export_tokens(tokenizer, BatchFeed(batches([key, "next"])), tmp_path / "tokens")
    store = TokenStore(str(tmp_path / "tokens"))
    store.verify()
    assert store.shard(0).keys == [key, "next"]
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


def test_labels_are_64_bit_and_bad_samples_are_listed(tokenizer, tmp_path):
    manifest = export_tokens(tokenizer, BatchFeed(batches(["x", "y"], bad=["z.png: is empty"])), tmp_path / "tokens")
    labels = TokenStore(tmp_path / "tokens").shard(0).labels
    assert labels.dtype == np.int64
    assert labels.tolist() == [1000, 999]
    assert manifest["bad"] == ["z.png: is empty"]


@pytest.mark.parametrize("size", [1, 2, 5, 7, 100])
def test_batches_run_across_shards(tokenizer, tmp_path, size):
    export_tokens(tokenizer, BatchFeed(batches([str(number) for number in range(7)]), 3), tmp_path / "tokens")
    store = TokenStore(tmp_path / "tokens")
    whole = np.concatenate([shard.ids for shard in store.shards()])
    found = [tokens.ids for tokens in store.batches(size)]
    assert [len(ids) for ids in found] == [size] * (7 // size) + [7 % size] * (7 % size > 0)
    assert torch.cat(found)[:, None].tolist() == whole.tolist()
    assert (
        torch.cat([tokens.ids for tokens in store.batches(size, shards=[1])])[:, None].tolist() == whole[3:6].tolist()
    )


def test_ids_get_the_smallest_type_that_holds_them():
    for sizes, name in (((2, 2**16), "uint16"), ((2**16 + 1,), "uint32"), ((2**32,), "uint32"), ((2**36,), "int64")):
        assert id_type(sizes).name == name
        assert np.iinfo(id_type(sizes)).max >= max(sizes) - 1


def test_an_altered_manifest_is_named(tokenizer, tmp_path):
    export_tokens(tokenizer, BatchFeed(batches(["x", "y"])), tmp_path / "tokens")
    path = tmp_path / "tokens" / MANIFEST
    path.write_text(path.read_text().replace('"one_number": "a token', '"one_number": "A token'))
    with pytest.raises(InputError, match=r"manifest\.json was altered"):
        TokenStore(tmp_path / "tokens").verify()
    path.write_text(path.read_text()[:-100])
    with pytest.raises(InputError, match=r"manifest\.json is not readable JSON"):
        TokenStore(tmp_path / "tokens")
    path.write_text('{"format": 2, "images": 3}')
    with pytest.raises(InputError, match=r"manifest\.json is damaged \(it lacks"):
        TokenStore(tmp_path / "tokens")


def test_ids_out_of_range_are_found_although_the_hashes_fit(tokenizer, tmp_path):
    export_tokens(tokenizer, BatchFeed(batches(["x", "y"])), tmp_path / "tokens")

    def change(path):
        ids = np.load(path)
        ids[1, 2, 0] = 200
        np.save(path, ids)

    rewrite(tmp_path / "tokens", "ids-00000.npy", change)
    with pytest.raises(
        InputError, match=r"ids-00000\.npy: ids of slot 0 must lie in \[0, 200\), got 200 at token 2 of"
    ):
        TokenStore(tmp_path / "tokens").verify()


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("labels-00000.npy", np.zeros(3, np.int64), "differ in length"),
        ("ids-00000.npy", np.zeros((2, 5, 1), np.uint16), "views, tokens and slots"),
        ("ids-00000.npy", np.zeros((1, 6, 1), np.uint16), "differ in length"),
    ],
)
def test_files_that_do_not_fit_each_other_are_found(tokenizer, tmp_path, name, array, message):
    export_tokens(tokenizer, BatchFeed(batches(["x", "y"])), tmp_path / "tokens")
    rewrite(tmp_path / "tokens", name, lambda path: np.save(path, array))
    with pytest.raises(InputError, match=message):
        TokenStore(tmp_path / "tokens").verify()


def test_a_vocabulary_beyond_any_table_has_no_codebook_but_a_reason(tmp_path):
    quantizer = FSQ([2] * 24)
    reason = write_codebook(quantizer, tmp_path / "codebook.safetensors")
    assert reason is not None
    assert f"more than {LARGEST / 1e6:,.0f} MB" in reason
    assert not any(tmp_path.iterdir())


def test_a_damaged_codebook_is_named(tmp_path):
    with pytest.raises(InputError, match=r"codebook\.safetensors does not exist"):
        read_codebook(tmp_path / "codebook.safetensors")
    (tmp_path / "codebook.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"codebook\.safetensors is not a codebook"):
        read_codebook(tmp_path / "codebook.safetensors")


def test_an_encoder_is_left_in_its_mode_and_shards_of_nothing_are_refused(tokenizer, tmp_path):
    tokenizer.train()
    with pytest.raises(ValueError, match="shard_size must be at least 1, got 0"):
        export_tokens(tokenizer, BatchFeed(batches(["x"]), 0), tmp_path / "tokens")
    export_tokens(tokenizer, BatchFeed(batches(["x"])), tmp_path / "tokens")
    assert tokenizer.encoder.training


def test_latents_that_are_not_finite_name_their_image(tokenizer, tmp_path):
    def spoil(_module, _args, output):
        output.values[1] = float("nan")
        return output

    tokenizer.encoder.register_forward_hook(spoil)
    with pytest.raises(InputError, match="y: its latents must be finite"):
        export_tokens(tokenizer, BatchFeed(batches(["x", "y"])), tmp_path / "tokens")
    assert not any(tmp_path.iterdir())
