"""MaskGen's reader finds the tokens and the text of every view."""

import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from export.stores import HOSTILE, batches, content, tokenizer_of

from imtok.errors import InputError
from imtok.export.convert import convert
from imtok.export.feed import BatchFeed
from imtok.export.formats.maskgen import MaskGen
from imtok.export.restore import restore
from imtok.export.store import TokenStore
from imtok.export.tokens import export_tokens
from imtok.export.verify import verify
from imtok.export.views import Views


def store_of(folder, kind="one slot", augment="centre", captions=None, keys=None):
    keys = keys or [f"{number}.png" for number in range(7)]
    texts = iter(captions or [f"picture {number}, süß" for number in range(len(keys))])
    views = Views(augment)
    told = (replace(batch, caption=[next(texts) for _ in batch.key]) for batch in batches(keys, side=views.square(16)))
    export_tokens(tokenizer_of(kind), BatchFeed(told, 3, side=views.square(16)), folder, views)
    return TokenStore(folder)


def samples(folder, dtype):
    """As ``PretokenizedWebDataset``: members by what follows the first dot, tokens from raw bytes, text in UTF-8."""
    for path in sorted(folder.glob("*.tar")):
        found: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path) as archive:
            for member in archive:
                key, suffix = member.name.split(".", 1)
                file = archive.extractfile(member)
                assert file is not None
                found.setdefault(key, {})[suffix] = file.read()
        for sample in found.values():
            yield np.frombuffer(sample["token.npy"], dtype), sample["txt"].decode("utf-8"), json.loads(sample["json"])


@pytest.mark.parametrize("dtype", ["int64", "float16"])
@pytest.mark.parametrize(
    ("kind", "augment", "slots"),
    [("one slot", "flip", None), ("two slots", "centre", "combine"), ("variable", "centre", None)],
)
def test_every_view_has_its_tokens_and_its_text(kind, augment, slots, dtype, tmp_path):
    store = store_of(tmp_path / "tokens", kind, augment)
    report = convert(store, MaskGen(slots, dtype, samples_per_file=4), tmp_path / "out")
    read = list(samples(tmp_path / "out", dtype))
    assert len(list((tmp_path / "out").glob("*.tar"))) == -(-7 * store.views // 4)
    assert {len(tokens) for tokens, _, _ in read} == {report["sequence"]["length"]}
    ids, keep = restore(np.stack([tokens for tokens, _, _ in read]).astype(np.int64), report)
    own = np.concatenate([np.asarray(shard.ids) for shard in store.shards()])
    assert np.array_equal(ids, own.reshape(-1, *own.shape[2:]))
    if kind == "variable":
        own_keep = np.concatenate([np.asarray(shard.keep) for shard in store.shards()])
        assert keep is not None
        assert np.array_equal(keep, own_keep[:, 0])
    assert [text for _, text, _ in read] == [f"picture {n}, süß" for n in range(7) for _ in range(store.views)]
    assert [(story["key"], story["view"], story["label"]) for _, _, story in read] == [
        (f"{number}.png", view, number % 3) for number in range(7) for view in range(store.views)
    ]
    assert f"num_latent_tokens={report['sequence']['length']}" in report["notes"][1]
    assert ("np.int64" in report["notes"][3]) == (dtype == "int64")
    verify(tmp_path / "out")


def test_an_image_without_a_caption_is_named_or_given_a_text(tmp_path):
    store = store_of(tmp_path / "tokens", captions=["a", "b", "c", "", "e", "f", "g"])
    with pytest.raises(InputError, match=r"3\.png has no caption; give format\.uncaptioned=TEXT"):
        convert(store, MaskGen(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    convert(store, MaskGen(uncaptioned=""), tmp_path / "out")
    assert [text for _, text, _ in samples(tmp_path / "out", "int64")] == ["a", "b", "c", "", "e", "f", "g"]
    none = store_of(tmp_path / "none", captions=[""] * 7)
    with pytest.raises(InputError, match=r"0\.png has no caption"):
        convert(none, MaskGen(), tmp_path / "more")


def test_ids_that_float16_would_round_are_refused(tmp_path):
    store = store_of(tmp_path / "tokens")
    store.manifest["vocab_sizes"] = [2049]
    MaskGen(dtype="float16").check(store, tmp_path)
    store.manifest["vocab_sizes"] = [2050]
    with pytest.raises(InputError, match=r"holds no ids beyond 2048, and there are ids up to 2049; give format\.dtype"):
        MaskGen(dtype="float16").check(store, tmp_path)
    assert int(np.float16(2048)) == int(np.float16(2049)) == 2048
    with pytest.raises(ValueError, match="dtype must be int64 or float16"):
        MaskGen(dtype="int32")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_itself_groups_the_members(tmp_path):
    import webdataset as wds

    store = store_of(tmp_path / "tokens")
    convert(store, MaskGen(), tmp_path / "out")
    data = wds.WebDataset(str(tmp_path / "out/tokens-000000.tar"), shardshuffle=False)
    read = list(data.rename(tokens="token.npy", text="txt"))
    ids = np.concatenate([np.asarray(shard.ids) for shard in store.shards()])[:, 0, :, 0]
    assert np.array_equal(np.stack([np.frombuffer(sample["tokens"], np.int64) for sample in read]), ids)


def test_hostile_keys_stay_data_and_one_flipped_byte_is_named(tmp_path):
    store = store_of(tmp_path / "tokens", keys=HOSTILE, captions=["x\ud800"] * len(HOSTILE))
    for name in "ab":
        convert(store, MaskGen(), tmp_path / name)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 4]))
        with pytest.raises(InputError, match=path.name):
            verify(tmp_path / "a")
        path.write_bytes(whole)
    verify(tmp_path / "a")
