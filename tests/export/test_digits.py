"""An id as several digits: every format takes them, and they make the id again."""

import numpy as np
import pytest
from export.readers import rar, webdataset
from export.stores import content, small_store, tokenizer_of
from hypothesis import given, settings
from hypothesis import strategies as st

from imtok.config import check_command
from imtok.errors import InputError
from imtok.export.convert import convert
from imtok.export.digits import Digits, DigitStore, least_base
from imtok.export.formats.bits import Bits
from imtok.export.formats.fqgan import FQGAN
from imtok.export.formats.llamagen import LlamaGen
from imtok.export.formats.nanogpt import NanoGPT
from imtok.export.formats.rar import RAR
from imtok.export.formats.webdataset import WebDataset
from imtok.export.pictures import decode_ids
from imtok.export.restore import restore
from imtok.export.store import TokenStore
from imtok.export.verify import verify


def stored_ids(store):
    ids = np.concatenate([np.asarray(shard.ids) for shard in store.shards()]).astype(np.int64)
    return ids.reshape(-1, *ids.shape[2:])


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 2**40), min_size=1, max_size=3),
    count=st.integers(2, 20),
    more=st.none() | st.integers(0, 5),
    seed=st.integers(0, 1000),
)
def test_digits_make_the_id_again(sizes, count, more, seed):
    base = None if more is None else max(least_base(size, count) for size in sizes) + more
    if base is not None and base**count >= 2**62:
        return
    digits = Digits.stored(Digits.of(tuple(sizes), count, base).about)
    ids = np.random.default_rng(seed).integers(0, sizes, (2, 5, len(sizes)))
    found = digits.split(ids)
    assert found.shape == (2, 5, count * len(sizes))
    assert ((found >= 0) & (found < np.array(digits.slots))).all()
    assert np.array_equal(digits.join(found), ids)
    assert all(
        b == 2 or base is not None or (b - 1) ** count < size for b, size in zip(digits.bases, sizes, strict=True)
    )


def test_digits_are_those_of_mdm_prime():
    """Its layer: ``values // base ** [l - 1, ..., 0] % base``, the same vocabulary for all, tokens after each other."""
    values = np.arange(4096)
    expected = values[:, None] // 8 ** np.arange(3, -1, -1) % 8
    assert np.array_equal(Digits.of((4096,), 4).split(values[:, None]), expected)


@pytest.mark.parametrize("slots", ["interleave", "shared", "combine"])
@pytest.mark.parametrize("kind", ["one slot", "two slots", "variable", "scales", "binary"])
def test_a_line_of_digits_becomes_the_ids_of_the_store(kind, slots, tmp_path):
    store = small_store(tmp_path / "tokens", kind, "flip")
    digits = Digits.of(tuple(store.manifest["vocab_sizes"]), 3)
    report = convert(store, RAR(slots), tmp_path / "out", digits)
    lines = np.stack([tokens.numpy() for tokens, _ in rar(tmp_path / "out/tokens.jsonl")])
    length = store.manifest["tokens"] * (1 if slots == "combine" else len(digits.slots))
    assert lines.shape == (14, length)
    if slots == "shared" and kind == "one slot":
        assert lines.max() < 4  # 4 ** 3 >= 32
    ids, keep = restore(lines, report)
    assert np.array_equal(ids, stored_ids(store))
    assert (keep is not None) == (kind == "variable")
    verify(tmp_path / "out")


def test_formats_that_keep_slots_apart_have_a_slot_for_each_digit(tmp_path):
    store = small_store(tmp_path / "tokens")
    digits = Digits.of((32,), 2, 8)
    convert(store, FQGAN(["high", "low"]), tmp_path / "files", digits)
    high, low = (np.load(tmp_path / f"files/imagenet16_codes/4_{name}.npy") for name in ("high", "low"))
    assert np.array_equal(high * 8 + low, stored_ids(store)[4][None, None, :, 0])
    report = convert(store, WebDataset(), tmp_path / "tars", digits)
    read = np.stack([arrays["npy"] for arrays, _, _ in webdataset([tmp_path / "tars/tokens-000000.tar"])])
    assert read.shape == (7, 1, 4, 2)
    assert np.array_equal(restore(read, report)[0], stored_ids(store))


def test_decode_makes_the_same_pictures_of_digits(tmp_path):
    store = small_store(tmp_path / "tokens", "two slots")
    convert(store, LlamaGen("interleave"), tmp_path / "out", Digits.of((32, 20), 2))
    rows = [np.load(tmp_path / f"out/imagenet16_codes/{number}.npy") for number in range(7)]
    np.save(tmp_path / "sampled.npy", np.stack(rows))
    tokenizer = tokenizer_of("two slots")
    decode_ids(tokenizer, tmp_path / "sampled.npy", tmp_path / "a", (16, 16), 4, layout=tmp_path / "out")
    decode_ids(tokenizer, tmp_path / "tokens", tmp_path / "b", (16, 16))
    pictures = {name: data for name, data in content(tmp_path / "a").items() if name.endswith("png")}
    assert pictures.items() <= content(tmp_path / "b").items()
    assert len(pictures) == 7


@pytest.mark.parametrize(
    ("count", "base", "message"),
    [
        (2, 5, r"digits=2 of base=5 are 25 numbers, fewer than 32 ids of slot 0; give base=6 or more, or more"),
        (4, 2, r"digits=4 of base=2 are 16 numbers, fewer than 32 ids of slot 0; give base=3 or more"),
        (1, 32, "digits must be at least 2, got 1"),
        (8, 1, "base must be at least 2, got 1"),
        (70, None, r"digits=70 of base=2 are numbers beyond 64 bits; give fewer digits"),
    ],
)
def test_too_few_digits_are_refused_in_one_line(count, base, message):
    with pytest.raises(InputError, match=message):
        Digits.of((32, 20), count, base)


def test_digits_of_no_id_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"digits must make ids of slots of \[32\], got 35"):
        Digits.of((32,), 2, 6).join(np.array([[5, 5]]))
    store = small_store(tmp_path / "tokens", "binary")
    with pytest.raises(InputError, match="has those of digits of LFQ"):
        convert(store, Bits(), tmp_path / "out", Digits.of((8, 4), 2))


def test_a_split_store_is_verified_whole_and_left_as_it_is(tmp_path):
    store = small_store(tmp_path / "tokens")
    before = content(tmp_path / "tokens")
    DigitStore(store, Digits.of((32,), 2)).verify()
    convert(store, NanoGPT("interleave", val_fraction=0.0), tmp_path / "out", Digits.of((32,), 2))
    assert content(tmp_path / "tokens") == before
    assert TokenStore(tmp_path / "tokens").manifest == store.manifest
    path = tmp_path / "tokens/ids-00001.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(InputError, match=r"ids-00001\.npy was altered"):
        convert(store, RAR("shared"), tmp_path / "more", Digits.of((32,), 2))


def test_the_command_takes_digits_and_refuses_what_is_none():
    check_command("convert", ["store=x", "out=y", "digits=2", "base=64"])
    for words, message in (
        (["digits=1"], "digits must be at least 2, got 1"),
        (["digits=2", "base=1"], "base must be at least 2, got 1"),
        (["base=64"], "base=64 needs digits=NUMBER"),
    ):
        with pytest.raises(InputError, match=message):
            check_command("convert", ["store=x", "out=y", *words])
