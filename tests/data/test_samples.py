"""Members make samples by WebDataset's rule, on a disk and behind a URL alike, and what is left aside is said."""

import json
import logging
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from webdataset.tariterators import group_by_keys, tar_file_expander

from imtok.commands.check import run_check
from imtok.data.check import Asked, check
from imtok.data.images import ImageSet
from imtok.data.loader import evaluation_loader, train_stream_loader
from imtok.data.pack import pack
from imtok.data.shards import ShardSource
from imtok.data.stream import ImageStream
from imtok.data.tars import Tars
from imtok.data.webdataset import WebDataset
from imtok.errors import InputError

Picture = Callable[[int], bytes]
Write = Callable[[Path, list[tuple[str, bytes]]], Path]
Found = dict[str, tuple[int, str, bytes]]
HERE, REASON = "0.tar", r"shard .*0\.tar cannot be used: it .*"


class Both:
    """The same shards on a disk and in memory, as remote ones."""

    def __init__(self, folder: Path, write_shard: Write) -> None:
        self.folder, self.write_shard = folder, write_shard
        self.files = fsspec.filesystem("memory")

    def write(self, members: list[tuple[str, bytes]], name: str = HERE) -> None:
        path = self.write_shard(self.folder / name, members)
        self.files.pipe(f"/both/{name}", path.read_bytes())

    @property
    def paths(self) -> list[str]:
        names = sorted(path.name for path in self.folder.glob("*.tar"))
        return [str(self.folder), f"memory://both/{{{','.join(names)}}}" if names[1:] else f"memory://both/{names[0]}"]

    def found(self, **settings: Any) -> list[Found]:
        """Key, class, caption and pixels by either way."""
        return [samples(WebDataset(path, **settings)) for path in self.paths]


def samples(data: WebDataset) -> Found:
    images = data.evaluation(8)
    found: Found = {}
    for sample in (
        images.once(0, 1) if isinstance(images, ImageStream) else (images[0, at] for at in range(len(images)))
    ):
        caption = images.source.caption(sample.index) or "" if isinstance(images, ImageSet) else sample.caption
        assert sample.image is not None
        found[sample.key.partition(":")[2]] = (sample.label, caption, sample.image.numpy().tobytes())
    return found


@pytest.fixture
def both(tmp_path: Path, write_shard: Write):
    (tmp_path / "both").mkdir()
    made = Both(tmp_path / "both", write_shard)
    yield made
    made.files.rm("/both", recursive=True)


def texts(found: Found) -> dict[str, tuple[int, str]]:
    return {key: (label, caption) for key, (label, caption, _) in found.items()}


def webdatasets(path: Path) -> list[dict[str, Any]]:
    """The samples that webdataset itself finds."""
    with path.open("rb") as file:
        return list(group_by_keys(tar_file_expander([{"url": "", "stream": file}])))


def test_random_names_make_the_samples_that_webdataset_makes_of_them(both: Both, picture: Picture):
    draw = random.Random(0)
    folders = ["", "a/", "a.b/", "a.b/c.d/", "__meta__/", "./__meta__/", "__/", "x__y__/"]
    fields = ["cls", "json", "txt", "npy", "seg.cls", "JSON", "x.y.z", "png.txt", ""]
    for trial in range(25):
        members: list[tuple[str, bytes]] = []
        for number in range(8):
            key = f"{draw.choice(folders)}{trial}-{number}"
            own = [*draw.sample(fields, draw.randint(0, 4)), draw.choice(["png", "PNG", "input.png", "a.b.Png"])]
            own = list({field.lower(): field for field in own}.values())
            draw.shuffle(own)
            contents = {"png": picture(number), "cls": b"%d" % number, "json": b"{}", "txt": b"text %d" % number}
            members += [(f"{key}.{field}", contents.get(field.lower().rpartition(".")[2], b"")) for field in own]
            members += [(f"{key}x", b""), (f"{draw.choice(folders)}README", b"")][: draw.randint(0, 2)]
        both.write(members)
        truth = {
            sample["__key__"].removeprefix("./"): (int(sample.get("cls", -1)), sample.get("txt", b"").decode())
            for sample in webdatasets(both.folder / HERE)
            if any(field.endswith("png") for field in sample)
        }
        local, remote = both.found()
        assert texts(local) == truth
        assert remote == local


FIELDS: dict[str, tuple[list[tuple[str, bytes]], dict[str, str], dict[str, tuple[int, str]]]] = {
    "masks": (
        [("1.jpg", b"1"), ("1.seg.png", b"2"), ("1.cls", b"4"), ("2.seg.png", b"3"), ("2.jpg", b"4"), ("2.cls", b"5")],
        {"image": "jpg"},
        {"1": (4, ""), "2": (5, "")},
    ),
    "the masks themselves": (
        [("1.jpg", b"1"), ("1.seg.png", b"2"), ("1.cls", b"4")],
        {"image": ".SEG.png"},
        {"1": (4, "")},
    ),
    "left and right": (
        [("1.left.jpg", b"1"), ("1.right.jpg", b"2"), ("1.cls", b"3")],
        {"image": "right.jpg"},
        {"1": (3, "")},
    ),
    "outputs": (
        [("s0.input.jpg", b"1"), ("s0.outputs.txt", b"a cat")],
        {"caption": "outputs.txt"},
        {"s0": (-1, "a cat")},
    ),
    "a field of any name": ([("1.img", b"1"), ("1.kind", b"7")], {"image": "img", "label": "kind"}, {"1": (7, "")}),
    "inside json": (
        [("1.jpg", b"1"), ("1.json", b'{"a": {"b": 7, "c": "a cat"}}'), ("2.jpg", b"2"), ("2.json", b'{"a.b": 8}')],
        {"label": "json.a.b", "caption": "json.a.c"},
        {"1": (7, "a cat"), "2": (8, "")},
    ),
    "inside another json": (
        [("1.jpg", b"1"), ("1.meta.json", b'{"Class": "9"}'), ("1.cls", b"3")],
        {"label": "meta.json.Class"},
        {"1": (9, "")},
    ),
    "no class": (
        [("1.jpg", b"1"), ("1.cls", b"-1"), ("2.jpg", b"2"), ("2.cls", b" 0\n")],
        {},
        {"1": (-1, ""), "2": (0, "")},
    ),
    "several captions, of which the first is shown": (
        [("1.jpg", b"1"), ("1.json", b'{"x": ["", "a cat", "two"]}'), ("2.jpg", b"2"), ("2.json", b'{"x": []}')],
        {"caption": "json.x"},
        {"1": (-1, "a cat"), "2": (-1, "")},
    ),
    "a long caption": ([("1.jpg", b"1"), ("1.txt", b"x" * 2**16)], {}, {"1": (-1, "x" * 2**16)}),
    "an empty caption": ([("1.jpg", b"1"), ("1.txt", b"")], {}, {"1": (-1, "")}),
}


@pytest.mark.parametrize("case", FIELDS)
def test_fields_are_read_by_name_on_a_disk_and_behind_a_url(case: str, both: Both, picture: Picture):
    members, settings, truth = FIELDS[case]
    both.write([(name, picture(int(data)) if name.endswith(("jpg", "png", "img")) else data) for name, data in members])
    local, remote = both.found(**settings)
    assert texts(local) == truth
    assert remote == local


UNUSABLE: dict[str, tuple[list[tuple[str, bytes]], dict[str, str], str]] = {
    "a mask": (
        [("1.jpg", b"1"), ("1.seg.png", b"2")],
        {},
        r"holds several images of the sample '1'; the fields with images are jpg, seg\.png: give data\.image=FIELD, "
        r"such as data\.image=jpg",
    ),
    "two kinds": (
        [("1.webp", b"1"), ("1.jpg", b"2"), ("2.png", b"3")],
        {},
        "several images of the sample '1'; .* jpg, png, webp:",
    ),
    "a key that comes back": (
        [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.cls", b"1"), ("b.cls", b"2")],
        {},
        r"holds the members of 'a' in two places, the second being 'a\.cls', .* sorted by name \(tar --sort=name\)",
    ),
    "a class before": ([("a.cls", b"1"), ("b.jpg", b"2"), ("a.jpg", b"1")], {}, r"'a' in two places, .* 'a\.jpg'"),
    "duplicates apart": ([("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"3")], {}, r"'a' in two places, .* 'a\.jpg'"),
    "duplicates": ([("a.jpg", b"1"), ("a.cls", b"1"), ("a.jpg", b"3")], {}, r"two members named 'a\.jpg'"),
    "duplicates in capitals": ([("a.jpg", b"1"), ("a.JPG", b"3")], {}, r"two members named 'a\.JPG'"),
    "two classes": ([("a.jpg", b"1"), ("a.cls", b"1"), ("a.cls", b"2")], {}, r"two members named 'a\.cls'"),
    "a fraction": ([("a.jpg", b"1"), ("a.cls", b"0.5")], {}, r"a\.cls, which is neither a class index nor the name"),
    "negative": ([("a.jpg", b"1"), ("a.cls", b"-3")], {}, r"a\.cls, which is neither a class index nor the name"),
    "bytes": ([("a.jpg", b"1"), ("a.cls", b"\xff\x00")], {}, r"a\.cls, which is neither"),
    "nothing": ([("a.jpg", b"1"), ("a.cls", b"")], {}, r"a\.cls, which is neither"),
    "a list": (
        [("a.jpg", b"1"), ("a.json", b'{"x": [1]}')],
        {"label": "json.x"},
        r"a\.json, whose x is \[1\], neither",
    ),
    "a flag": (
        [("a.jpg", b"1"), ("a.json", b'{"x": true}')],
        {"label": "json.x"},
        r"a\.json, whose x is True, neither",
    ),
    "no text": (
        [("a.jpg", b"1"), ("a.json", b'{"x": 1}')],
        {"caption": "json.x"},
        r"a\.json, whose x is 1, not a text",
    ),
    "no list of texts": (
        [("a.jpg", b"1"), ("a.json", b'{"x": ["a", 1]}')],
        {"caption": "json.x"},
        r"a\.json, whose x is \['a', 1\], not a list of texts",
    ),
    "no json": ([("a.jpg", b"1"), ("a.json", b"{")], {"caption": "json.x"}, r"a\.json, which is not JSON"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_samples_that_cannot_be_told_are_refused_by_name_in_the_same_words(case: str, both: Both, picture: Picture):
    members, settings, reason = UNUSABLE[case]
    both.write(
        [
            (name, picture(int(data)) if name.lower().endswith(("jpg", "png", "webp")) else data)
            for name, data in members
        ]
    )
    said = []
    for path in both.paths:
        with pytest.raises(InputError, match=REASON + reason) as caught:
            samples(WebDataset(path, **settings))
        said.append(str(caught.value).partition("cannot be used")[2])
    assert said[0] == said[1]
    if not settings:
        assert said[0] in check(str(both.folder)).faults[0]


def test_names_of_classes_are_numbered_over_all_shards_and_held_out_images_by_the_same_classes(
    tmp_path: Path, both: Both, write_shard: Write, picture: Picture
):
    both.write([("1.jpg", picture(1)), ("1.cls", b"tench\n"), ("2.jpg", picture(2)), ("2.cls", b"cock")], "0.tar")
    both.write([("3.jpg", picture(3)), ("3.cls", b"great white shark"), ("4.jpg", picture(4))], "1.tar")
    write_shard(
        tmp_path / "val.tar", [("1.jpg", picture(5)), ("1.cls", b"tench"), ("2.jpg", picture(6)), ("2.cls", b"dog")]
    )
    data = WebDataset(both.folder, val_path=tmp_path / "val.tar")
    images, held_out = data.evaluation(8), data.validation(8)
    assert isinstance(images, ImageSet)
    assert isinstance(held_out, ImageSet)
    assert images.source.classes == held_out.source.classes == ["cock", "great white shark", "tench"]
    assert [images.source.label(at) for at in range(4)] == [2, 0, 1, -1]
    assert [held_out.source.label(at) for at in range(2)] == [2, -1]
    assert held_out.remarks == (
        f"{tmp_path}/val.tar: images of class dog have no class, because the list of classes lacks it",
        f"{tmp_path}/val.tar: there is no image of class cock and great white shark",
    )


def test_a_pack_of_held_out_images_that_lacks_a_class_has_the_numbers_of_the_training_images(
    tmp_path: Path, write_shard: Write, picture: Picture
):
    for name, classes, label in (("train", {"a": 0, "b": 1, "c": 2}, b"2"), ("val", {"a": 0, "c": 1}, b"1")):
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name / "0.tar", [("1.jpg", picture(1)), ("1.cls", label)])
        (tmp_path / name / "classes.json").write_text(json.dumps(classes))
    data = WebDataset(tmp_path / "train", val_path=tmp_path / "val")
    assert [data.evaluation(8, split)[0, 0].label for split in ("all", "val")] == [2, 2]
    assert [data.evaluation(8, split).source.classes[2] for split in ("all", "val")] == ["c", "c"]


def test_a_stream_needs_to_be_told_the_classes_that_are_written_as_names(
    tmp_path: Path, both: Both, picture: Picture, caplog: pytest.LogCaptureFixture
):
    both.write([("1.jpg", picture(1)), ("1.cls", b"tench"), ("2.jpg", picture(2)), ("2.cls", b"cock")])
    with pytest.raises(
        InputError, match=r"names the class of '1' \('tench'\), .* give data.classes=FILE, .*imtok pack"
    ):
        samples(WebDataset(both.paths[1]))
    (tmp_path / "classes.json").write_text('{"tench": 1, "cat": 0, "cock": 2}')
    for classes in (["cat", "tench", "cock"], tmp_path / "classes.json"):
        local, remote = both.found(classes=classes)
        assert texts(local) == {"1": (1, ""), "2": (2, "")}
        assert remote == local
    local, remote = both.found(classes=["tench"])
    assert texts(local) == texts(remote) == {"1": (0, ""), "2": (-1, "")}
    said = "shard 0.tar: images of class cock have no class, because the list of classes lacks it"
    assert said in caplog.text
    held_out = WebDataset(both.folder, val_path=both.paths[1]).validation(8)
    assert isinstance(held_out, ImageStream)
    assert [sample.label for sample in held_out.once(0, 1)] == [1, 0]


def test_names_and_numbers_of_classes_are_not_mixed(both: Both, picture: Picture):
    both.write([("1.jpg", picture(1)), ("1.cls", b"tench"), ("2.jpg", picture(2)), ("2.cls", b"3")])
    with pytest.raises(InputError, match=r"class of 0.tar:1 \('tench'\) is a name and that of 0.tar:2 \(3\) a number"):
        WebDataset(both.folder).train(8, 0)


def test_a_pack_of_named_classes_holds_their_numbers_and_names(tmp_path: Path, both: Both, picture: Picture):
    both.write([("1.x.jpg", picture(1)), ("1.cls", b"tench"), ("2.x.jpg", picture(2)), ("2.cls", b"cock")])
    pack(ShardSource([both.folder / HERE]), tmp_path / "packed")
    packed = ShardSource(sorted((tmp_path / "packed").glob("*.tar")))
    assert packed.classes == ["cock", "tench"]
    assert {packed.stem(at): packed.label(at) for at in range(2)} == {"1": 1, "2": 0}


def test_an_empty_shard_beside_good_ones_is_a_named_remark(
    both: Both, picture: Picture, caplog: pytest.LogCaptureFixture
):
    both.write([("1.jpg", picture(1)), ("3.jpg", picture(3))], "0.tar")
    both.write([], "1.tar")
    both.write([("README", b""), ("2.txt", b"no image")], "2.tar")
    with caplog.at_level(logging.WARNING):
        local, remote = both.found()
        again = WebDataset(both.paths[1]).train(8, 0)
        assert isinstance(again, ImageStream)
    assert list(local) == ["1", "3"]
    assert remote == local
    remark = "no image was found in 2 shards: 1.tar, 2.tar"
    assert WebDataset(both.folder).evaluation(8).remarks == (remark,)
    assert Tars(both.folder).evaluation(8).remarks == (remark,)
    assert [record.getMessage() for record in caplog.records] == [
        "shard 1.tar: it holds no image",
        "shard 2.tar: it holds no image",
    ]


def test_shards_without_any_image_are_refused(both: Both):
    both.write([], "0.tar")
    both.write([("1.heic", b"")], "1.tar")
    for path in both.paths:
        with pytest.raises(InputError, match=r"data.path holds no JPEG, PNG"):
            samples(WebDataset(path))
    assert any("holds no JPEG, PNG" in fault for fault in check(str(both.folder)).faults)


SKIPPED = {"1.heic": ".heic", "2.HEIC": ".heic", "3.gif": ".gif", "4.jpg_large": ".jpg_large", "5.jpg.1": ".jpg.1"}
SKIPPED |= {"__thumbs__/1.jpg": "__thumbs__/ (WebDataset's own)"}
SKIPPED |= {"6.x.tiff": ".tiff", "7.bmp": ".bmp", "8.png~": ".png~", "a/9.jxl": ".jxl"}
OTHERS = [
    "1.cls",
    "1.json",
    "1.txt",
    "1.npy",
    "1.wav",
    "1.mp4",
    "1.jpg.txt",
    "1.jpg_large.json",
    "._2.heic",
    "gif",
    "1.pyd",
]


@pytest.mark.parametrize("kind", [WebDataset, Tars])
def test_pictures_of_other_kinds_are_counted_by_kind_and_fields_of_other_things_are_not(
    kind: type, both: Both, picture: Picture, caplog: pytest.LogCaptureFixture
):
    contents = {"cls": b"1", "json": b"{}", "txt": b"a cat"}
    both.write(
        [("0.jpg", picture(1)), *((name, b"x") for name in SKIPPED)]
        + [(name, contents.get(name.rpartition(".")[2], b"x")) for name in OTHERS]
    )
    remark = kind(both.folder).evaluation(8).remarks[0]
    head, _, kinds = remark.partition(": ")
    expected = {
        f"1 {suffix}" for suffix in SKIPPED.values() if suffix != ".heic" and (kind is WebDataset or suffix[0] == ".")
    }
    assert head == f"skipped {len(expected) + 2} pictures of kinds that imtok does not read"
    assert kinds.startswith("2 .heic, ")
    assert set(kinds.split(", ")[1:]) == expected
    if kind is WebDataset:
        samples(WebDataset(both.paths[1]))
        assert f"shard 0.tar: {remark}" in caplog.text


def test_the_remarks_follow_the_suffixes_that_are_read(both: Both, picture: Picture, monkeypatch: pytest.MonkeyPatch):
    both.write([("0.jpg", picture(1)), ("1.heic", picture(2))])
    for module in ("members", "headers"):
        monkeypatch.setattr(f"imtok.data.{module}.SUFFIXES", (b".jpg", b".heic"))
    images = WebDataset(both.folder).evaluation(8)
    assert (len(images), images.remarks) == (2, ())


def test_what_settings_do_not_find_is_said_or_refused(both: Both, picture: Picture, caplog: pytest.LogCaptureFixture):
    both.write(
        [("1.jpg", picture(1)), ("1.a.txt", b"x"), ("2.jpg", picture(2)), ("3.png", picture(3)), ("3.a.cls", b"1")]
    )
    images = WebDataset(both.folder).evaluation(8)
    assert images.remarks == (
        "no label is read from a.cls; give data.label=a.cls to read it",
        "no caption is read from a.txt; give data.caption=a.txt to read it",
    )
    images = WebDataset(both.folder, image="jpg", caption="a.txt").evaluation(8)
    assert len(images) == 2
    assert images.remarks[:2] == (
        "left out 1 sample with pictures in other fields than data.image=jpg; 2 have that field",
        "1 of 2 samples have no data.caption=a.txt",
    )
    for setting, value in (("image", "gif"), ("caption", "b.txt"), ("label", "json.label")):
        with pytest.raises(InputError, match=rf"data.{setting}={value}.*; the fields are a.cls, a.txt, jpg, png"):
            WebDataset(both.folder, **{setting: value}).train(8, 0)
    samples(WebDataset(both.paths[1], label="json.label"))
    assert "shard 0.tar: 3 of 3 samples have no data.label=json.label" in caplog.text


def test_plain_tars_take_every_file_as_an_image_of_its_own(tmp_path: Path, write_shard: Write, picture: Picture):
    names = ["c/2020.01.jpg", "c/2020.02.jpg", "d/x.seg.png", "d/x.jpg"]
    write_shard(
        tmp_path / "0.tar", [(name, picture(at)) for at, name in enumerate(names)] + [("c/2020.01.txt", b"a cat")]
    )
    images = Tars(tmp_path).evaluation(8)
    assert isinstance(images, ImageSet)
    assert [images.source.stem(at) for at in range(4)] == ["c/2020.01", "c/2020.02", "d/x.seg", "d/x"]
    assert [images.source.label(at) for at in range(4)] == [0, 0, 1, 1]
    assert images.source.caption(0) == "a cat"
    with pytest.raises(InputError, match=r"several images of the sample 'c/2020'.*data=tars"):
        Tars(tmp_path, labels="member").evaluation(8)


def test_an_index_keeps_names_of_classes_and_remarks_and_fits_only_the_fields_it_was_made_with(
    tmp_path: Path, both: Both, picture: Picture
):
    both.write([("1.jpg", picture(1)), ("1.cls", b"tench"), ("2.jpg", picture(2)), ("2.cls", b"cock"), ("3.gif", b"")])
    plain = WebDataset(both.folder).evaluation(8)
    for _ in range(2):
        images = WebDataset(both.folder, index=tmp_path / "index").evaluation(8)
        assert [images[0, at].label for at in range(2)] == [1, 0]
        assert images.source.classes == ["cock", "tench"]
        assert images.remarks == plain.remarks == ("skipped 1 picture of kinds that imtok does not read: 1 .gif",)
        assert images.digest == plain.digest
    with pytest.raises(InputError, match=r"data.index was made with other settings of data.image"):
        WebDataset(both.folder, index=tmp_path / "index", image="jpg").evaluation(8)
    both.write([("1.a.jpg", picture(1))])
    Tars(both.folder, index=tmp_path / "old").evaluation(8)
    with pytest.raises(InputError, match=r"names of samples ended at the last dot.*; delete the index file"):
        WebDataset(both.folder, index=tmp_path / "old").evaluation(8)


@pytest.mark.parametrize("setting", ["image", "caption", "label"])
def test_an_empty_field_is_refused(setting: str):
    with pytest.raises(ValueError, match=f"{setting} must be a field such as jpg"):
        WebDataset("x", **{setting: "."})
    with pytest.raises(ValueError, match="classes must be unlike each other"):
        WebDataset("x", classes=["a", "a"])


def test_batches_of_either_way_are_the_same(both: Both, picture: Picture):
    both.write([member for at in range(3) for member in ((f"{at}.in.png", picture(at)), (f"{at}.cls", b"%d" % at))])
    local, remote = (list(evaluation_loader(WebDataset(path).evaluation(8), 2)) for path in both.paths)
    assert [batch.label.tolist() for batch in local] == [batch.label.tolist() for batch in remote] == [[0, 1], [2]]
    with tarfile.open(both.folder / HERE) as archive:
        assert len(archive.getmembers()) == 6


def test_check_reads_shards_as_training_does(both: Both, picture: Picture, capsys: pytest.CaptureFixture[str]):
    for at in range(2):
        own = [
            (f"{at}.jpg", picture(at)),
            (f"{at}.seg.png", b""),
            (f"{at}.cls", (b"tench", b"cock")[at]),
            (f"{at}.gif", b""),
        ]
        both.write(own, f"{at}.tar")
    assert run_check([str(both.folder)]) == 1
    printed = capsys.readouterr().out
    assert printed.count("the fields with images are jpg, seg.png: give data.image=FIELD, such as data.image=jpg") == 2
    assert run_check([str(both.folder), "data.image=jpg"]) == 0
    found = check(str(both.folder), asked=Asked("jpg"))
    assert (found.images, found.classes, found.labels) == (2, ["cock", "tench"], {0: 1, 1: 1})
    assert run_check([str(both.folder), "data=tars"]) == 1  # the masks are no pictures
    assert list(check(str(both.folder), asked=Asked(labels="folder")).broken) == ["0.tar:0.seg", "1.tar:1.seg"]
    both.write([("9.jpg", picture(9)), ("9.cls", b"4")], "2.tar")
    faults = check(str(both.folder), asked=Asked("jpg")).faults
    assert any("of 0.tar:0 ('tench') is a name and that of 2.tar:9 (4) a number" in fault for fault in faults)
    with pytest.raises(InputError, match=r"data\.image must be a field"):
        run_check([str(both.folder), "data.image="])


def test_a_stream_says_what_it_leaves_aside_once_however_many_epochs_it_reads(
    both: Both, picture: Picture, caplog: pytest.LogCaptureFixture
):
    both.write([("0.jpg", picture(0)), ("1.gif", b"")])
    for workers in (0, 1):
        images = WebDataset(both.paths[1], val_path=both.paths[1].replace("0.tar", "none.tar")).train(8, 0)
        assert isinstance(images, ImageStream)
        assert len(list(train_stream_loader(images, 2, 3, workers))) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "shard 0.tar: skipped 1 picture of kinds that imtok does not read: 1 .gif"
    ]
