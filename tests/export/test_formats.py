"""What a consumer's own reader finds is what the store holds: ids, labels, order, for every format."""

import io
import json
import pickle
import pickletools
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from export.readers import gigatok, llamagen, nanogpt, rar, webdataset
from export.stores import HOSTILE, content, small_store
from torch.utils.data import default_collate

from imtok.errors import InputError
from imtok.export.convert import SUMS, convert
from imtok.export.formats.fqgan import FQGAN
from imtok.export.formats.gigatok import GigaTok
from imtok.export.formats.huggingface import HuggingFace
from imtok.export.formats.llamagen import LlamaGen
from imtok.export.formats.nanogpt import NanoGPT, _meta, from_text, to_text
from imtok.export.formats.parquet import Parquet
from imtok.export.formats.rar import RAR
from imtok.export.formats.webdataset import WebDataset
from imtok.export.sequences import Sequencing
from imtok.export.verify import verify

needs_arrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")
LABELS = [0, 1, 2, 0, 1, 2, 0]
CASES = [("one slot", "centre"), ("one slot", "ten_crop"), ("two slots", "flip"), ("variable", "centre")]
CASES += [("variable two", "flip")]


@pytest.fixture(scope="module", params=CASES, ids=" ".join)
def store(request, tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("store") / "tokens", *request.param)


def slots_of(store):
    return None if len(store.manifest["vocab_sizes"]) == 1 else "interleave"


def expected(store, slots="interleave"):
    """Ids and ``keep`` of every view of every image, straight from the store's files."""
    manifest = store.manifest
    ids, keep = [], []
    for number in range(manifest["shards"]):
        row = np.load(store.folder / f"ids-{number:05d}.npy", allow_pickle=False).astype(np.int64)
        ids.append(row.reshape(len(row), -1, manifest["tokens"], len(manifest["vocab_sizes"])))
        if manifest["variable_length"]:
            mask = np.load(store.folder / f"keep-{number:05d}.npy", allow_pickle=False)
            keep.append(mask.reshape(len(row), -1, manifest["tokens"]))
    return np.concatenate(ids), np.concatenate(keep) if keep else None


def assert_same(store, found, slots="interleave"):
    """``found``: a sequence for every view of every image."""
    ids, keep = expected(store)
    sequencing = Sequencing.of(store, slots if slots_of(store) else None)
    found = iter(found)
    for image in range(len(ids)):
        for view in range(ids.shape[1]):
            back, kept = sequencing.split(np.asarray(next(found)))
            assert np.array_equal(back, ids[image, view])
            assert kept is None or np.array_equal(kept, keep[image, view])
    assert next(found, None) is None


@pytest.mark.parametrize("slots", ["interleave", "combine"])
def test_llamagen_reads_every_view_with_its_label(store, tmp_path, slots):
    out = tmp_path / {"ten_crop": "codes_flip_ten_crop"}.get(store.manifest["augment"], "codes_flip")
    convert(store, LlamaGen(slots if slots_of(store) else None), out)
    read = [[llamagen(out, 16, number, view) for view in range(store.views)] for number in range(7)]
    assert_same(store, (ids.numpy() for image in read for ids, _ in image), slots)
    assert [label.tolist() for image in read for _, label in image[:1]] == [[label] for label in LABELS]
    assert np.load(out / "imagenet16_codes/3.npy", allow_pickle=False).shape[:2] == (1, store.views)
    verify(out)


@pytest.mark.parametrize(
    "form",
    [LlamaGen(), NanoGPT(), RAR(), WebDataset(), pytest.param(Parquet(), marks=needs_arrow)],
    ids=lambda form: type(form).__name__,
)
def test_a_terminal_sees_how_many_images_are_written_and_a_pipe_nothing(form, tmp_path, monkeypatch):
    store = small_store(tmp_path / "tokens")
    for stream, shown in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        convert(store, form, tmp_path / f"out{shown}")
        assert ("convert" in stream.getvalue()) == ("7/7" in stream.getvalue()) == shown


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_gigatok_reads_every_view_with_its_label(store, tmp_path):
    convert(store, GigaTok(slots_of(store)), tmp_path / "ten_crop")
    read = [[gigatok(tmp_path / "ten_crop", 16, number, view) for view in range(store.views)] for number in range(7)]
    assert_same(store, (ids.numpy() for image in read for ids, _ in image))
    assert [int(image[0][1]) for image in read] == LABELS
    verify(tmp_path / "ten_crop")


def test_fqgan_reads_a_file_per_slot(store, tmp_path):
    names = ["vis", "sem"][: len(store.manifest["vocab_sizes"])]
    convert(store, FQGAN(names if len(names) == 1 else None), tmp_path / "flip_ten_crop")
    ids, keep = expected(store)
    for number in range(7):
        for slot, name in enumerate(names):
            array = np.load(tmp_path / f"flip_ten_crop/imagenet16_codes/{number}_{name}.npy", allow_pickle=False)
            assert array.shape == (1, store.views, 4)
            assert array.dtype == np.int64
            own = ids[number, ..., slot]
            padding = store.manifest["vocab_sizes"][slot]
            assert np.array_equal(array[0], own if keep is None else np.where(keep[number], own, padding))
        label = np.load(tmp_path / f"flip_ten_crop/imagenet16_labels/{number}.npy", allow_pickle=False)
        assert label.tolist() == [LABELS[number]]


def test_rar_reads_a_line_per_view(store, tmp_path):
    report = convert(store, RAR(slots_of(store)), tmp_path / "out")
    read = list(rar(tmp_path / "out/tokens.jsonl"))
    assert_same(store, (ids.numpy() for ids, _ in read))
    assert [int(label) for _, label in read] == np.repeat(LABELS, store.views).tolist()
    assert default_collate([ids for ids, _ in read]).shape == (7 * store.views, report["sequence"]["length"])
    vocabulary = report["sequence"]["vocabulary"]
    assert all(0 <= int(ids.min()) <= int(ids.max()) < vocabulary for ids, _ in read)
    assert f"codebook_size={vocabulary}" in report["notes"][0]


def test_nanogpt_reads_images_between_begin_and_end_on_one_side_of_the_split_each(store, tmp_path):
    convert(store, NanoGPT(slots_of(store), val_fraction=0.5), tmp_path / "out")
    vocab = json.loads((tmp_path / "out/vocab.json").read_text())
    sides = {name: list(nanogpt(tmp_path / f"out/{name}.bin", vocab)) for name in ("train", "val")}
    assert all(sides.values())
    assert sum(map(len, sides.values())) == 7 * store.views
    whole = small = 0
    ids, keep = expected(store)
    sequencing = Sequencing.of(store, slots_of(store))
    for stream in sides.values():
        for row, label in stream:
            back, kept = sequencing.split(row)
            match = (ids == back).all((1, 2, 3) if store.views == 1 else (2, 3))
            if keep is not None:
                match &= (keep == kept).all((1, 2) if store.views == 1 else 2)
            images = np.flatnonzero(match if match.ndim == 1 else match.any(1))
            assert label in [LABELS[image] for image in images]
            whole += 1
            small += len(row) < sequencing.length
    assert small > 0 or not store.manifest["variable_length"]
    assert b"vocab_size" in (tmp_path / "out/meta.pkl").read_bytes()
    opcodes = {opcode.name for opcode, _, _ in pickletools.genops((tmp_path / "out/meta.pkl").read_bytes())}
    assert not opcodes & {"GLOBAL", "STACK_GLOBAL", "REDUCE", "INST", "OBJ", "NEWOBJ"}


def test_nanogpts_sample_py_prompts_and_prints_every_number(tmp_path):
    store = small_store(tmp_path / "tokens", "one slot", "centre")
    convert(store, NanoGPT(val_fraction=0.5), tmp_path / "out")
    vocab = json.loads((tmp_path / "out/vocab.json").read_text())
    with (tmp_path / "out/meta.pkl").open("rb") as file:
        meta = pickle.load(file)
    stoi, itos = meta["stoi"], meta["itos"]  # sample.py
    every = list(range(meta["vocab_size"]))
    text = "".join([itos[i] for i in every])
    assert [stoi[c] for c in text] == every == from_text(text, vocab)
    assert text == to_text(every, vocab)
    assert [stoi[c] for c in "\n"] == [vocab["begin"]]  # its default prompt begins an image
    prompt = tmp_path / "prompt.txt"  # --start=FILE:prompt.txt
    prompt.write_text(to_text([vocab["begin"], vocab["classes"]["offset"]], vocab), encoding="utf-8")
    assert [stoi[c] for c in prompt.read_text(encoding="utf-8")] == [vocab["begin"], vocab["classes"]["offset"]]
    text.encode("utf-8")  # it prints them
    with pytest.raises(InputError, match="'a' stands for no token"):
        from_text("a", vocab)


def test_a_vocabulary_beyond_unicode_has_its_size_alone():
    vocab = {"vocab_size": 0x110000, "begin": 0}
    assert _meta(vocab) == {"vocab_size": 0x110000}


def test_fqgan_is_told_names_and_vocabularies_and_nothing_of_another_trainer(tmp_path):
    store = small_store(tmp_path / "tokens", "two slots", "flip")
    report = convert(store, FQGAN(), tmp_path / "flip")
    assert report["notes"] == [
        "slot 0 is _vis.npy, slot 1 is _sem.npy; vocabularies 32, 20, 4 tokens per image",
        "7 images; format.fill=NUMBER adds links where a loader counts on more",
    ]


def test_nanogpt_says_which_file_is_too_short_for_its_batches(tmp_path):
    store = small_store(tmp_path / "tokens", "one slot", "centre")
    for fraction, short in ((0.0, "val.bin must have more"), (0.999, "train.bin must have more"), (0.5, None)):
        notes = convert(store, NanoGPT(val_fraction=fraction), tmp_path / f"out{fraction}")["notes"]
        assert len(notes) == 1 + (short is not None)
        for name in ("train", "val"):
            size = (tmp_path / f"out{fraction}/{name}.bin").stat().st_size // 2
            assert (size <= 4 + 3) == (short is not None and short.startswith(name))
        assert short is None or notes[1].startswith(short)


@needs_arrow
@pytest.mark.parametrize("form", [Parquet, HuggingFace])
def test_parquet_has_a_row_per_view(store, tmp_path, form):
    from pyarrow import parquet

    convert(store, form(slots_of(store), rows_per_file=4), tmp_path / "out")
    paths = sorted((tmp_path / "out/data").glob("train-*.parquet"))
    assert len(paths) == -(-7 * store.views // 4)
    rows = [row for path in paths for row in parquet.read_table(path).to_pylist()]
    assert_same(store, (np.array(row["input_ids"], dtype=np.int64) for row in rows))
    assert [row["label"] for row in rows] == np.repeat(LABELS, store.views).tolist()
    assert [row["key"] for row in rows] == [f"{number}.png" for number in range(7) for _ in range(store.views)]
    assert all(len(row["input_ids"]) == row["length"] for row in rows)
    if form is HuggingFace:
        features = json.loads(parquet.read_schema(paths[0]).metadata[b"huggingface"])["info"]["features"]
        assert features["label"]["names"] == ["ant", "bee", "cat"]
        assert features.keys() == rows[0].keys()
        assert "path: data/train-*" in (tmp_path / "out/README.md").read_text()
    verify(tmp_path / "out")


def test_webdataset_reads_arrays_classes_and_keys(store, tmp_path):
    convert(store, WebDataset(images_per_file=3), tmp_path / "out")
    paths = sorted((tmp_path / "out").glob("*.tar"))
    assert [path.name for path in paths] == [f"tokens-00000{number}.tar" for number in range(3)]
    ids, keep = expected(store)
    for number, (arrays, label, key) in enumerate(webdataset(paths)):
        found = arrays["npy"] if arrays["npy"].ndim == 3 else arrays["npy"][..., None]
        assert np.array_equal(found, ids[number])
        assert (label, key) == (LABELS[number], f"{number}.png")
        assert keep is None or np.array_equal(arrays["keep.npy"], keep[number])
        torch.nn.Embedding(64, 1)(torch.from_numpy(found))  # takes int32 and int64, and nothing unsigned
    assert number == 6


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_itself_reads_them(tmp_path):
    import webdataset as wds

    store = small_store(tmp_path / "tokens", augment="flip")
    convert(store, WebDataset(), tmp_path / "out")
    urls = str(tmp_path / "out/tokens-000000.tar")
    read = list(wds.WebDataset(urls, shardshuffle=False).decode(only=["npy", "cls", "json"]).to_tuple("npy", "cls"))
    assert np.array_equal(np.stack([ids for ids, _ in read]), expected(store)[0][..., 0])
    assert [label for _, label in read] == LABELS


FORMATS = [LlamaGen(), GigaTok(), FQGAN(["vis"]), RAR(), NanoGPT(), WebDataset()]
FORMATS += [pytest.param(form, marks=needs_arrow) for form in (Parquet(rows_per_file=4), HuggingFace(rows_per_file=4))]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: type(form).__name__)
def test_hostile_keys_stay_data_and_the_same_store_gives_the_same_bytes(form, tmp_path):
    store = small_store(tmp_path / "below/tokens", keys=HOSTILE)
    store.verify()
    convert(store, form, tmp_path / "below/a")
    convert(store, form, tmp_path / "below/b")
    assert content(tmp_path / "below/a") == content(tmp_path / "below/b")
    assert sorted(path.name for path in (tmp_path / "below").iterdir()) == ["a", "b", "tokens"]
    assert [path.name for path in tmp_path.iterdir()] == ["below"]
    for path in (tmp_path / "below/a").rglob("*"):
        assert path.name.isascii()
        assert len(path.name) < 40


def refused_with_a_flip(folder, path, place, flip):
    """One byte of a file is another one for the time of a check."""
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
    with pytest.raises(InputError, match=path.name):
        verify(folder)
    path.write_bytes(whole)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: type(form).__name__)
def test_one_flipped_byte_anywhere_is_named(form, tmp_path):
    out = tmp_path / "out"
    convert(small_store(tmp_path / "tokens"), form, out)
    verify(out)
    for path in sorted(path for path in out.rglob("*") if path.is_file())[:12]:
        whole = path.read_bytes()
        for place in {0, len(whole) // 2, len(whole) - 1} if whole else ():
            refused_with_a_flip(out, path, place, 4)
    (out / "more.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"more\.npy is not in SHA256SUMS"):
        verify(out)


@needs_arrow
@pytest.mark.parametrize(
    "form", [Parquet(rows_per_file=4), HuggingFace(rows_per_file=4)], ids=lambda f: type(f).__name__
)
def test_one_flipped_byte_is_named_in_every_part_of_a_table(form, tmp_path):
    from pyarrow import parquet

    out = tmp_path / "out"
    convert(small_store(tmp_path / "tokens"), form, out)
    for path in sorted((out / "data").iterdir()):
        whole = path.read_bytes()
        footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
        group = parquet.read_metadata(path).row_group(0)
        pages = [group.column(number).data_page_offset for number in range(group.num_columns)]
        assert max(pages) < footer
        magic, length = [0, 3, len(whole) - 4, len(whole) - 1], [len(whole) - 8, len(whole) - 5]
        for place in [*magic, *length, *pages, footer - 1, footer, (footer + len(whole)) // 2]:
            refused_with_a_flip(out, path, place, 1)
    verify(out)


def test_bytes_all_over_a_manifest_cannot_be_other_ones(tmp_path):
    store, out, random = tmp_path / "tokens", tmp_path / "out", np.random.default_rng(0)
    convert(small_store(store), RAR(), out)
    for path in (store / "manifest.json", out / "convert.json", out / SUMS):
        for place in range(0, path.stat().st_size, 11):
            refused_with_a_flip(path.parent, path, place, int(random.integers(1, 256)))
    verify(out)


def test_a_manifest_with_a_number_beyond_all_bounds_was_altered(tmp_path):
    small_store(tmp_path / "tokens")
    path = tmp_path / "tokens/manifest.json"
    path.write_text(path.read_text().replace('"images": 7', '"images": 1e999'))
    with pytest.raises(InputError, match=r"manifest\.json was altered"):
        verify(tmp_path / "tokens")


def test_sums_are_those_that_sha256sum_reads(tmp_path):
    convert(small_store(tmp_path / "tokens"), LlamaGen(), tmp_path / "out")
    checked = subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=tmp_path / "out", check=False)
    assert checked.returncode == 0


def test_names_by_which_loaders_tell_crops_are_asked_for(tmp_path):
    store = small_store(tmp_path / "tokens", augment="ten_crop_105")
    with pytest.raises(InputError, match="must have flip in its name"):
        convert(store, LlamaGen(), tmp_path / "codes")
    with pytest.raises(InputError, match="must end in ten_crop_105"):
        convert(store, LlamaGen(), tmp_path / "codes_flip_ten_crop")
    with pytest.raises(InputError, match="must end in ten_crop_105"):
        convert(store, GigaTok(), tmp_path / "ten_crop")
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


def test_images_without_a_class_are_named_or_given_one(tmp_path):
    store = small_store(tmp_path / "tokens", labels=[0, 1, -1, 0, 1, 2, 0])
    for form in (LlamaGen(), RAR()):
        with pytest.raises(InputError, match=r"2\.png has no class; give format\.unlabelled=NUMBER"):
            convert(store, form, tmp_path / "out")
    convert(store, RAR(unlabelled=3), tmp_path / "out")
    assert [int(label) for _, label in rar(tmp_path / "out/tokens.jsonl")] == [0, 1, 3, 0, 1, 2, 0]
    convert(store, NanoGPT(val_fraction=0.0), tmp_path / "stream")
    vocab = json.loads((tmp_path / "stream/vocab.json").read_text())
    assert [label for _, label in nanogpt(tmp_path / "stream/train.bin", vocab)] == [0, 1, -1, 0, 1, 2, 0]


def test_a_fixed_number_of_files_is_made_of_links(tmp_path):
    convert(small_store(tmp_path / "tokens"), LlamaGen(fill=10), tmp_path / "out")
    for number in range(10):
        ids, label = llamagen(tmp_path / "out", 16, number, None)
        first, first_label = llamagen(tmp_path / "out", 16, number % 7, None)
        assert ids.tolist() == first.tolist()
        assert label.tolist() == first_label.tolist()
    verify(tmp_path / "out")


def test_a_vocabulary_beyond_16_bits_is_not_cut(tmp_path):
    store = small_store(tmp_path / "tokens", "two slots")
    store.manifest["vocab_sizes"] = [2**16, 20]
    with pytest.raises(InputError, match=r"vocabulary of 65562 does not fit uint16; give format\.dtype=uint32"):
        NanoGPT("interleave").check(store, tmp_path)
    NanoGPT("interleave", dtype="uint32").check(store, tmp_path)


def test_a_damaged_store_is_not_converted(tmp_path):
    store = small_store(tmp_path / "tokens")
    path = tmp_path / "tokens/ids-00001.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(InputError, match=r"ids-00001\.npy was altered"):
        convert(store, RAR(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
