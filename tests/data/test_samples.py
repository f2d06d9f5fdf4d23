"""Members make samples by WebDataset's rule, on a disk and behind a URL alike."""

import random
import tarfile
from pathlib import Path
from typing import Any

import pytest
from data.both import HERE, REASON, Both, Picture, Write, samples, texts
from webdataset.tariterators import group_by_keys, tar_file_expander

from imtok.commands.check import run_check
from imtok.data.check import CheckSettings, check
from imtok.data.images import ImageSet
from imtok.data.order.loader import evaluation_loader
from imtok.data.sources.webdataset import Tars, WebDataset
from imtok.errors import InputError


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
    found = check(str(both.folder), asked=CheckSettings("jpg"))
    assert (found.images, found.classes, found.labels) == (2, ["cock", "tench"], {0: 1, 1: 1})
    assert run_check([str(both.folder), "data=tars"]) == 1  # the masks are no pictures
    assert list(check(str(both.folder), asked=CheckSettings(labels="folder")).broken) == ["0.tar:0.seg", "1.tar:1.seg"]
    both.write([("9.jpg", picture(9)), ("9.cls", b"4")], "2.tar")
    faults = check(str(both.folder), asked=CheckSettings("jpg")).faults
    assert any("of 0.tar:0 ('tench') is a name and that of 2.tar:9 (4) a number" in fault for fault in faults)
    with pytest.raises(InputError, match=r"data\.image must be a field"):
        run_check([str(both.folder), "data.image="])
