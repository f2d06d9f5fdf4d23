"""Image ids in the vocabulary of a language model: shifted, between begin and end, and brought back."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from export.readers import nanogpt
from export.stores import small_store, tokenizer_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imtok.build import build_part
from imtok.errors import InputError
from imtok.export.convert import convert
from imtok.export.formats.bits import Bits
from imtok.export.formats.huggingface import HuggingFace
from imtok.export.formats.llamagen import LlamaGen
from imtok.export.formats.nanogpt import NanoGPT, from_text, to_text
from imtok.export.formats.parquet import Parquet
from imtok.export.formats.rar import RAR
from imtok.export.formats.webdataset import WebDataset
from imtok.export.pictures import decode_ids
from imtok.export.restore import restore
from imtok.export.sequences import Place, Sequencing
from imtok.export.verify import verify
from imtok.options import option

needs_arrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")
OWN = {"one slot": None, "two slots": "interleave", "variable": None, "variable two": "combine"}


def expected(store):
    ids = np.concatenate([np.asarray(shard.ids) for shard in store.shards()]).astype(np.int64)
    keep = [shard.keep for shard in store.shards()]
    return ids.reshape(-1, *ids.shape[2:]), None if keep[0] is None else np.concatenate(keep).reshape(-1, ids.shape[2])


def assert_restored(store, rows, report):
    """Rows of unlike lengths, each as the store has it."""
    ids, keep = expected(store)
    rows = list(rows)
    assert len(rows) == len(ids)
    for number, row in enumerate(rows):
        back, kept = restore(np.array([row]), report)
        assert np.array_equal(back[0], ids[number])
        assert kept is None if keep is None else np.array_equal(kept[0], keep[number])


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=3),
    tokens=st.integers(1, 5),
    slots=st.sampled_from(["interleave", "shared", "combine"]),
    variable=st.booleans(),
    offset=st.integers(0, 2**40),
    around=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 1000),
)
def test_split_undoes_join_and_frame_wherever_the_ids_lie(sizes, tokens, slots, variable, offset, around, seed):
    random = np.random.default_rng(seed)
    sequencing = Sequencing(tuple(sizes), tokens, slots, variable, offset)
    begin, end = (sequencing.top + number if given else None for number, given in enumerate(around))
    sequencing = Sequencing.stored(Sequencing(tuple(sizes), tokens, slots, variable, offset, begin, end).about)
    ids = random.integers(0, sizes, (3, tokens, len(sizes)))
    keep = random.random((3, tokens)) < 0.7 if variable else None
    if keep is not None:
        ids[~keep] = 0
    joined = sequencing.join(ids, keep)
    assert offset <= joined.min() <= joined.max() < sequencing.top <= sequencing.size
    for row, own, length in zip(joined, ids, sequencing.lengths(keep, (3,)), strict=True):
        framed = sequencing.frame(row[:length])
        assert len(framed) == length + sum(around)
        for numbers in (framed, row):
            assert np.array_equal(sequencing.split(numbers)[0], own)
    whole = np.stack([sequencing.frame(row) for row in joined])
    assert np.array_equal(sequencing.split(whole)[0], ids)


def test_what_a_generator_writes_after_the_end_is_padding():
    sequencing = Sequencing((8,), 4, "interleave", True, offset=10, begin=1, end=2)
    ids, keep = sequencing.split(np.array([[1, 13, 11, 2, 5, 99], [1, 10, 10, 10, 17, 2]]))
    assert ids[..., 0].tolist() == [[3, 1, 0, 0], [0, 0, 0, 7]]
    assert keep is not None
    assert keep.tolist() == [[True, True, False, False], [True] * 4]


@pytest.mark.parametrize("row", [[9, 10, 11, 12], [10, 11, 12, 18], [3, 1, 0, 2], [1, 1, 10, 11], [10, 11, 2, 2]])
def test_numbers_of_text_are_no_ids_of_an_image(row):
    sequencing = Sequencing((8,), 4, "interleave", False, offset=10, begin=1, end=2)
    with pytest.raises(ValueError, match=r"must follow the order of slots|must have 4 tokens"):
        sequencing.split(np.array(row))


@needs_arrow
@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("form", [Parquet, HuggingFace])
def test_columns_hold_shifted_ids_between_begin_and_end(form, kind, tmp_path):
    from pyarrow import parquet

    store = small_store(tmp_path / "tokens", kind, "flip")
    report = convert(store, form(OWN[kind], offset=32000, begin=31998, end=31999), tmp_path / "out")
    (path,) = (tmp_path / "out/data").iterdir()
    rows = parquet.read_table(path).to_pylist()
    assert_restored(store, (row["input_ids"] for row in rows), report)
    for row in rows:
        assert (row["input_ids"][0], row["input_ids"][-1]) == (31998, 31999)
        assert all(number >= 32000 for number in row["input_ids"][1:-1])
        assert row["length"] == len(row["input_ids"])
    if form is HuggingFace:
        assert "between begin 31998 and end 31999" in (tmp_path / "out/README.md").read_text()
    cells = [str(cell) for column in verify(tmp_path / "out").columns for cell in column.cells]
    assert any("tokens from 32000 to" in cell and "begin 31998, end 31999" in cell for cell in cells)


@needs_arrow
def test_a_column_is_as_wide_as_its_largest_number(tmp_path):
    from pyarrow import parquet

    store = small_store(tmp_path / "tokens")
    for number, (place, wide) in enumerate(
        [({"offset": 2**31 - 32}, "int32"), ({"offset": 2**31 - 31}, "int64"), ({"end": 2**31}, "int64")]
    ):
        report = convert(store, HuggingFace(**place), tmp_path / f"out{number}")
        (path,) = (tmp_path / f"out{number}/data").iterdir()
        table = parquet.read_table(path)
        assert str(table.schema.field("input_ids").type.value_type) == wide
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        assert features["input_ids"]["feature"]["dtype"] == wide
        assert_restored(store, table.column("input_ids").to_pylist(), report)


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("place", [{"offset": 500}, {"offset": 500, "begin": 3, "end": 4}, {"end": 40000}])
def test_a_stream_holds_shifted_ids_and_says_where_all_lie(kind, place, tmp_path):
    store = small_store(tmp_path / "tokens", kind)
    report = convert(store, NanoGPT(OWN[kind], val_fraction=0.0, **place), tmp_path / "out")
    vocab = json.loads((tmp_path / "out/vocab.json").read_text())
    assert vocab["codes"]["offset"] == place.get("offset", 0)
    for name in ("begin", "end"):
        assert name not in place or vocab[name] == place[name]
    special = [vocab["begin"], vocab["end"], vocab["no_class"]]
    taken = range(vocab["codes"]["offset"], vocab["no_class"])
    assert len(set(special)) == 3
    assert not set(special) & set(taken)
    assert vocab["vocab_size"] == max(*special, taken[-1]) + 1
    rows = [row for row, _ in nanogpt(tmp_path / "out/train.bin", vocab)]
    assert [label for _, label in nanogpt(tmp_path / "out/train.bin", vocab)] == [0, 1, 2, 0, 1, 2, 0]
    assert_restored(store, rows, report)
    whole = [[vocab["begin"], vocab["classes"]["offset"], *row.tolist(), vocab["end"]] for row in rows]
    assert_restored(store, whole, report)
    assert from_text(to_text(whole[0], vocab), vocab) == whole[0]


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda: Parquet(begin=5), r"format\.begin=5 is also the number of an image's token, since those are 0 to 31"),
        (lambda: HuggingFace(offset=100, end=131), r"format\.end=131 is also the number .* 100 to 131"),
        (lambda: NanoGPT(offset=100, begin=131), r"format\.begin=131 is also the number .* 100 to 131"),
        (lambda: NanoGPT(offset=100, end=134), r"format\.end=134 is also the number of a class .* 100 to 135"),
        (lambda: NanoGPT(offset=100, end=135), r"format\.end=135 is also the number of a class .* 100 to 135"),
        (lambda: NanoGPT(offset=65500), r"vocabulary of 65538 does not fit uint16; give format\.dtype=uint32"),
        (lambda: NanoGPT(end=65536), r"vocabulary of 65537 does not fit uint16"),
        (lambda: NanoGPT(dtype="uint32", begin=2**32), r"vocabulary of 4294967298 does not fit uint32"),
        (lambda: Parquet(offset=2**63 - 31), r"do not fit 64 bits; give a smaller format\.offset"),
        (lambda: Parquet(end=2**63), r"do not fit 64 bits"),
    ],
)
def test_numbers_that_meet_or_do_not_fit_are_refused_before_anything_is_written(form, message, tmp_path):
    store = small_store(tmp_path / "tokens")
    with pytest.raises(InputError, match=message) as refused:
        convert(store, form(), tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["parquet", "huggingface", "nanogpt"])
def test_the_files_of_configs_take_a_place_and_refuse_what_is_none(name):
    plain = option("format", name)
    for own, message in (
        ({"offset": -1}, "offset must be at least 0, got -1"),
        ({"begin": -2}, "begin must be at least 0, got -2"),
        ({"begin": 7, "end": 7}, "begin and end must be different numbers, got 7 for both"),
    ):
        with pytest.raises(InputError, match=f"format: {message}"):
            build_part({"format": {**plain, **own}}, "format")
    form = build_part({"format": {**plain, "offset": 9, "begin": 1, "end": 2}}, "format")
    assert form.place == Place(9, 1, 2)


def framed(store, report):
    """What a generator makes: the store's own images in the numbers of a layout."""
    ids, keep = expected(store)
    sequencing = Sequencing.stored(report["sequence"])
    return np.stack([sequencing.frame(row) for row in sequencing.join(ids, keep)])


@needs_arrow
@pytest.mark.parametrize("kind", OWN)
def test_decode_takes_a_generators_numbers_with_the_folder_that_it_learned_from(kind, tmp_path):
    tokenizer = tokenizer_of(kind)
    store = small_store(tmp_path / "tokens", kind)
    report = convert(store, Parquet(OWN[kind], offset=1000, begin=1, end=2), tmp_path / "out")
    np.save(tmp_path / "sampled.npy", framed(store, report))
    count = decode_ids(tokenizer, tmp_path / "sampled.npy", tmp_path / "a", (16, 16), 4, layout=tmp_path / "out")
    assert count == decode_ids(tokenizer, tmp_path / "tokens", tmp_path / "b", (16, 16)) == 7
    for path in sorted((tmp_path / "b").glob("*.png")):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "a" / path.name)), np.asarray(Image.open(path)))


def test_bits_of_a_generator_are_decoded_too(tmp_path):
    store = small_store(tmp_path / "tokens", "binary")
    convert(store, Bits(), tmp_path / "out")
    tokenizer, bits = tokenizer_of("binary"), tmp_path / "out/bits-00000.npy"
    assert decode_ids(tokenizer, bits, tmp_path / "a", (16, 16), layout=tmp_path / "out") == 3
    decode_ids(tokenizer, tmp_path / "tokens/ids-00000.npy", tmp_path / "b", (16, 16), 3)
    for path in (tmp_path / "b").glob("*.png"):
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()


def test_a_layout_of_another_tokenizer_or_of_other_numbers_is_refused(tmp_path):
    store, tokenizer = small_store(tmp_path / "tokens"), tokenizer_of("one slot")
    convert(store, RAR(), tmp_path / "out")
    np.save(tmp_path / "sampled.npy", np.full((2, 4), 32))
    decode = {"source": tmp_path / "sampled.npy", "folder": tmp_path / "pictures", "size": (16, 16)}
    with pytest.raises(InputError, match=r"sampled\.npy has no numbers of .*out \(tokens must follow the order"):
        decode_ids(tokenizer, **decode, layout=tmp_path / "out")
    with pytest.raises(InputError, match=r"tokens has no convert\.json; give a folder that imtok convert wrote"):
        decode_ids(tokenizer, **decode, layout=tmp_path / "tokens")
    with pytest.raises(
        InputError, match=r"layout= is for numbers of a generator, and .*tokens has the tokenizer's ids"
    ):
        decode_ids(tokenizer, tmp_path / "tokens", tmp_path / "pictures", (16, 16), layout=tmp_path / "out")
    with torch.no_grad():
        next(tokenizer.encoder.parameters()).add_(1)
    with pytest.raises(InputError, match="has tokens of another tokenizer"):
        decode_ids(tokenizer, **decode, layout=tmp_path / "out")
    assert not (tmp_path / "pictures").exists()


@pytest.mark.parametrize("form", [LlamaGen("interleave"), WebDataset()])
def test_layouts_that_shift_nothing_are_read_back_the_same_way(form, tmp_path):
    store = small_store(tmp_path / "tokens", "two slots")
    report = convert(store, form, tmp_path / "out")
    ids, _ = expected(store)
    numbers = Sequencing.stored(report["sequence"]).join(ids) if "sequence" in report else ids
    assert np.array_equal(restore(numbers, report)[0], ids)
    with pytest.raises(ValueError, match=r"must have 8 tokens|last axes must be 4 tokens and 2 slots"):
        restore(numbers[..., :1], report)
