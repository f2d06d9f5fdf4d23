"""A store is read again to the last byte, and a few of its images are shown."""

import io

import numpy as np
import pytest
import torch
from export.stores import small_store, tokenizer_of
from PIL import Image
from rich.console import Console

from imtok.errors import InputError
from imtok.export.store import TokenStore
from imtok.export.verify import decode_sample, verify
from imtok.pixels import to_uint8
from imtok.types import Tokens


def test_one_flipped_byte_anywhere_is_named(tmp_path):
    small_store(tmp_path / "tokens", "variable")
    for path in sorted((tmp_path / "tokens").iterdir()):
        whole = path.read_bytes()
        for place in np.random.default_rng(0).integers(0, len(whole), 25).tolist():
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
            with pytest.raises(InputError, match=path.name):
                verify(tmp_path / "tokens")
        path.write_bytes(whole)
    verify(tmp_path / "tokens")


def test_a_space_that_changes_no_value_of_the_manifest_is_noticed_too(tmp_path):
    small_store(tmp_path / "tokens")
    path = tmp_path / "tokens/manifest.json"
    path.write_bytes(path.read_bytes().replace(b"\n  ", b"\n\t ", 1))
    with pytest.raises(InputError, match=r"manifest\.json was altered"):
        verify(tmp_path / "tokens")


def test_what_a_store_holds_is_told(tmp_path):
    small_store(tmp_path / "tokens", "two slots", "flip", labels=[0, 0, -1, 2, 2, 2, 2])
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(verify(tmp_path / "tokens"))
    text = console.export_text()
    for words in ("2 (flip)", "4 per view, slots of 32, 20 ids", "2 used, 3 named, 1 images without"):
        assert words in text


@pytest.mark.parametrize("kind", ["one slot", "variable"])
def test_a_sample_is_decoded_view_by_view(kind, tmp_path):
    store, tokenizer = small_store(tmp_path / "tokens", kind, "flip"), tokenizer_of(kind)
    assert decode_sample(tmp_path / "tokens", tokenizer, tmp_path / "sample", 3) == 6
    names = sorted(path.name for path in (tmp_path / "sample").glob("*.png"))
    assert names == [f"00000{image}_{view}.png" for image in (0, 2, 4) for view in (0, 1)]
    shard = store.shard(1)
    keep = None if shard.keep is None else torch.from_numpy(np.array(shard.keep[1]))
    ids = torch.from_numpy(shard.ids[1].astype(np.int64))
    expected = to_uint8(tokenizer.decode(Tokens(ids, keep), (16, 16)))[1]
    shown = np.asarray(Image.open(tmp_path / "sample/000004_1.png"))
    assert np.array_equal(shown, expected.permute(1, 2, 0).numpy())


def test_a_sample_needs_the_tokenizer_that_wrote_the_store(tmp_path):
    small_store(tmp_path / "tokens")
    other = tokenizer_of("one slot")
    with torch.no_grad():
        other.decoder.last_layer.add_(1)
    with pytest.raises(InputError, match="was exported with another tokenizer"):
        decode_sample(tmp_path / "tokens", other, tmp_path / "sample")
    with pytest.raises(InputError, match="is not a token store"):
        decode_sample(tmp_path, other, tmp_path / "sample")
    assert not (tmp_path / "sample").exists()


def test_a_shard_missing_from_the_end_is_noticed(tmp_path):
    store = small_store(tmp_path / "tokens")
    (tmp_path / "tokens/labels-00002.npy").unlink()
    with pytest.raises(InputError, match=r"labels-00002\.npy is missing"):
        TokenStore(store.folder).verify()
