"""What is written about images travels with their tokens, from files and streams to the formats that have a place."""

import json
import tarfile
from importlib.util import find_spec
from io import BytesIO

import numpy as np
import pytest
from export.stores import content, folder_feed, small_store, tokenizer_of
from PIL import Image
from training.runs import write_images

from imtok.data.sources.webdataset import WebDataset as Shards
from imtok.errors import InputError
from imtok.export.convert import convert
from imtok.export.feed import make_feed
from imtok.export.formats.huggingface import HuggingFace
from imtok.export.formats.parquet import Parquet
from imtok.export.formats.webdataset import WebDataset
from imtok.export.store import TokenStore
from imtok.export.tokens import export_tokens
from imtok.export.verify import verify
from imtok.export.views import Views

TEXTS = {"a/000": "a dog\nin the snow", "a/004": "größe 日本", "b/003": "../x \0"}


@pytest.fixture
def images(tmp_path):
    """Seven images, in shards of three; those of the third shard have no caption."""
    folder = write_images(tmp_path / "images", 7)
    for stem, text in TEXTS.items():
        (folder / f"{stem}.txt").write_bytes(text.encode())
    return folder


@pytest.fixture
def store(images, tmp_path):
    export_tokens(tokenizer_of("one slot"), folder_feed(images, augment="flip"), tmp_path / "tokens", Views("flip"))
    return TokenStore(tmp_path / "tokens")


def captions(store):
    found = {}
    for shard in store.shards():
        found |= dict(zip(shard.keys, shard.captions or [""] * len(shard.keys), strict=True))
    return found


def expected(store):
    return [TEXTS.get(key.removesuffix(".png"), "") for shard in store.shards() for key in shard.keys]


def test_captions_beside_files_are_stored_beside_keys(store):
    store.verify()
    assert store.manifest["captions"] == 3
    assert len(store) == 7
    assert list(captions(store).values()) == expected(store)
    assert [shard.captions is None for shard in store.shards()] == [False, False, True]


def test_a_store_without_captions_says_nothing_of_them(tmp_path):
    store = small_store(tmp_path / "tokens")
    assert store.manifest["captions"] == 0
    assert not store.captioned
    assert all("captions" not in store.record(number) for number in range(3))
    del store.manifest["captions"]  # as in a store of before there were any
    assert not store.captioned


def test_a_caption_that_was_altered_is_found(store):
    path = store.folder / "shard-00000.json"
    path.write_text(path.read_text().replace("a dog", "a cat"))
    with pytest.raises(InputError, match=r"shard-00000\.json was altered"):
        verify(store.folder)


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")
@pytest.mark.parametrize("form", [Parquet, HuggingFace])
def test_tables_have_a_column_of_captions(store, tmp_path, form):
    from pyarrow import parquet

    convert(store, form(rows_per_file=5), tmp_path / "out")
    tables = [parquet.read_table(path) for path in sorted((tmp_path / "out/data").iterdir())]
    found = [text for table in tables for text in table["caption"].to_pylist()]
    assert found == [text for text in expected(store) for _ in range(2)]
    if form is HuggingFace:
        features = json.loads(tables[0].schema.metadata[b"huggingface"])["info"]["features"]
        assert list(features) == tables[0].column_names
        assert "| `caption` |" in (tmp_path / "out/README.md").read_text()
    plain = small_store(tmp_path / "plain")
    convert(plain, form(), tmp_path / "other")
    assert "caption" not in parquet.read_schema(next((tmp_path / "other/data").iterdir())).names


def test_shards_have_a_member_for_each_caption(store, tmp_path):
    convert(store, WebDataset(), tmp_path / "out")
    with tarfile.open(tmp_path / "out/tokens-000000.tar") as archive:
        texts = {name: archive.extractfile(name).read().decode() for name in archive.getnames() if ".txt" in name}
    assert texts == {f"{number:08d}.txt": text for number, text in enumerate(expected(store)) if text}


def tar_of(samples):
    """A shard of such members, in their order."""
    file = BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in samples:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, BytesIO(data))
    return file.getvalue()


def picture(number):
    file = BytesIO()
    Image.fromarray(np.full((16, 16, 3), number * 20, np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_captions_come_out_of_streams_as_out_of_files(tmp_path):
    members = [("0.txt", b"first"), ("0.png", picture(0)), ("0.cls", b"1"), ("1.png", picture(1)), ("1.cls", b"2")]
    members += [("2.png", picture(2)), ("2.txt", "d\u00e9but".encode())]
    (tmp_path / "s-000000.tar").write_bytes(tar_of(members))
    tokenizer, found = tokenizer_of("one slot"), {}
    shards = {"files": str(tmp_path / "s-000000.tar"), "stream": "mine://host/s-000000.tar"}
    for name, path in shards.items():
        opener = None if name == "files" else lambda url: (tmp_path / url.rpartition("/")[2]).open("rb")
        images = Shards(path=path, opener=opener).evaluation(16, "all")
        export_tokens(tokenizer, make_feed(images, 2, 2, 0), tmp_path / name)
        store = TokenStore(tmp_path / name)
        store.verify()
        found[name] = list(captions(store).values())
        assert np.concatenate([shard.labels for shard in store.shards()]).tolist() == [1, 2, -1]
    assert found["files"] == found["stream"] == ["first", "", "d\u00e9but"]


def test_captions_do_not_change_with_the_number_of_workers(images, tmp_path):
    for workers in (0, 2):
        feed = folder_feed(images)
        feed.workers = workers
        export_tokens(tokenizer_of("one slot"), feed, tmp_path / f"{workers}")
    assert content(tmp_path / "0") == content(tmp_path / "2")


@pytest.fixture
def several(images, tmp_path):
    """The same images; two of them have several texts."""
    rows = [{"file_name": "a/000.png", "text": ["one", "two"]}, {"file_name": "a/002.png", "text": ["x", "y", "z"]}]
    rows += [
        {"file_name": name, "text": None} for name in ("b/001.png", "b/003.png", "a/004.png", "b/005.png", "a/006.png")
    ]
    (images / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    export_tokens(tokenizer_of("one slot"), folder_feed(images), tmp_path / "several")
    return TokenStore(tmp_path / "several")


ALL = {"a/000": ["one", "two"], "a/002": ["x", "y", "z"], "a/004": [TEXTS["a/004"]], "b/003": [TEXTS["b/003"]]}


def test_all_texts_of_an_image_are_stored(several):
    several.verify()
    assert several.has_several_texts
    found = {}
    for shard in several.shards():
        found |= dict(zip(shard.keys, shard.texts or [[caption] for caption in shard.captions or []], strict=False))
    assert {key.removesuffix(".png"): texts for key, texts in found.items() if any(texts)} == ALL
    assert captions(several)["a/002.png"] == "x"


def test_all_texts_reach_the_formats(several, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    convert(several, HuggingFace(), tmp_path / "table")
    table = parquet.read_table(next((tmp_path / "table/data").iterdir()))
    found = dict(zip(table["key"].to_pylist(), table["captions"].to_pylist(), strict=True))
    assert {key.removesuffix(".png"): texts for key, texts in found.items() if texts} == ALL
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == table.column_names
    convert(several, WebDataset(), tmp_path / "shards")
    with tarfile.open(tmp_path / "shards/tokens-000000.tar") as archive:
        stories = [json.load(archive.extractfile(name)) for name in archive.getnames() if name.endswith("json")]
    assert [story.get("captions") for story in stories if "captions" in story] == [["one", "two"], ["x", "y", "z"]]


def test_all_texts_lie_in_a_pack(several, images, tmp_path):
    from imtok.data.archives.packing import Encoding, Packer
    from imtok.data.sources.folder import FileSource

    packed = Packer(FileSource(images), Encoding())[1]
    assert packed.members["txt"] == b"x"
    assert json.loads(packed.members["json"])["captions"] == ["x", "y", "z"]
