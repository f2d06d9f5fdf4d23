"""Remote shards: each read once by one reader, resumed at the next one, and every fault named."""

import collections
import io
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from webdataset.shardlists import split_by_node, split_by_worker

from imtok.data import transport as module
from imtok.data.loader import evaluation_loader, spread_loader, train_stream_loader
from imtok.data.order import epoch_order
from imtok.data.position import StreamPosition
from imtok.data.remote import find_remote, is_remote
from imtok.data.stream import ImageStream
from imtok.data.webdataset import WebDataset
from imtok.errors import InputError
from imtok.types import Batch

Write = Callable[[Path, list[tuple[str, bytes]]], Path]
SHARDS, EACH = 6, 5


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, and can break off."""

    break_after: int | None = None
    breaks = 0
    answer: tuple[int, str] | None = None  # status, and where a redirect leads; {} is the path that was asked for

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        if self.answer is None:
            super().do_HEAD()
        else:
            self.say()

    def say(self) -> None:
        status, place = self.answer or (200, "")
        self.send_response(status)
        if place:
            self.send_header("Location", place.format(self.path))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        if self.answer is not None:
            self.say()
            return
        if type(self).breaks:
            type(self).breaks -= 1
            self.send_response(200)
            data = Path(self.translate_path(self.path)).read_bytes()
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: self.break_after])
            self.close_connection = True
            return
        super().do_GET()


@pytest.fixture
def folder(tmp_path: Path, write_shard: Write, picture: Callable[[int], bytes]) -> Path:
    (tmp_path / "served").mkdir()
    for shard in range(SHARDS):
        members = []
        for at in range(EACH):
            name = f"{shard * EACH + at:02d}"
            members += [(f"{name}.png", picture(shard * EACH + at)), (f"{name}.cls", b"%d" % shard)]
            members += [(f"{name}.txt", b"a caption"), (f"{name}.pkl", b"cos\nsystem\n")]
        write_shard(tmp_path / "served" / f"shard-{shard}.tar", members)
    return tmp_path / "served"


@pytest.fixture
def http(folder: Path) -> Iterator[str]:
    Handler.breaks, Handler.break_after, Handler.answer = 0, None, None
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/shard-{{0..{SHARDS - 1}}}.tar"
    server.shutdown()
    server.server_close()


@pytest.fixture
def memory(folder: Path) -> Iterator[str]:
    files = fsspec.filesystem("memory")
    for path in folder.iterdir():
        files.pipe(f"/set/{path.name}", path.read_bytes())
    yield f"memory://set/shard-{{0..{SHARDS - 1}}}.tar"
    files.rm("/set", recursive=True)


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(module.time, "sleep", waited.append)
    return waited


def stream(path: str, buffer: int = 4, seed: int = 3) -> ImageStream:
    images = WebDataset(path, val_path="memory://none.tar", shuffle_buffer=buffer).train(8, seed)
    assert isinstance(images, ImageStream)
    return images


def train(images: ImageStream, batches: int, workers: int = 0, rank: int = 0, world: int = 1, **more) -> list[Batch]:
    return list(train_stream_loader(images, 5, batches, workers, rank, world, **more))


def keys(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.key]


def epochs(batches: list[Batch]) -> dict[int, list[str]]:
    """Keys by epoch."""
    found: dict[int, list[str]] = {}
    for batch in batches:
        for key, reading in zip(batch.key, batch.index.tolist(), strict=True):
            found.setdefault(reading // SHARDS, []).append(key)
    return found


@pytest.mark.parametrize("kind", ["http", "memory"])
@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_shows_every_image_of_a_url_once_as_from_the_disk(
    kind: str, workers: int, folder: Path, request: pytest.FixtureRequest
):
    url = request.getfixturevalue(kind)
    local = list(evaluation_loader(WebDataset(folder).evaluation(8), 4))
    remote = list(evaluation_loader(WebDataset(url).evaluation(8), 4, workers))

    def content(batches: list[Batch]) -> dict[str, tuple[int, bytes]]:
        return {
            key: (int(label), image.numpy().tobytes())
            for batch in batches
            for key, label, image in zip(batch.key, batch.label, batch.image, strict=True)
        }

    assert content(remote) == content(local)
    assert len(keys(remote)) == SHARDS * EACH
    if workers == 0:
        assert keys(remote) == keys(local)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 0), (2, 2), (3, 2), (1, 3), (6, 0)])
def test_each_shard_is_read_once_an_epoch_by_one_reader(world: int, workers: int, memory: str):
    batches = 12 // world * max(1, workers)
    ranks = [train(stream(memory), batches, workers, rank, world) for rank in range(world)]
    assert all(len(own) == batches and len(batch.key) == 5 for own in ranks for batch in own)
    readers: dict[tuple[int, str], set[int]] = {}
    for rank, own in enumerate(ranks):
        for epoch, names in epochs(own).items():
            for name in names:
                readers.setdefault((epoch, name.split(":")[0]), set()).add(rank)
    assert all(len(who) == 1 for who in readers.values())
    counts = collections.Counter(
        (epoch, name) for own in ranks for epoch, names in epochs(own).items() for name in names
    )
    assert set(counts.values()) == {1}
    if SHARDS % (world * max(1, workers)) == 0:
        first = [name for own in ranks for name in epochs(own)[0]]
        assert len(first) == SHARDS * EACH


def test_a_reader_has_the_shards_that_webdatasets_splits_give_it(memory: str, monkeypatch: pytest.MonkeyPatch):
    images = stream(memory)
    for world, workers in ((1, 1), (2, 1), (1, 3), (2, 2), (3, 2)):
        order = epoch_order(SHARDS, 3, 1).tolist()
        for rank in range(world):
            for worker in range(workers):
                place = {"RANK": rank, "WORLD_SIZE": world, "WORKER": worker, "NUM_WORKERS": workers}
                for name, value in place.items():
                    monkeypatch.setenv(name, str(value))
                reader, readers = worker * world + rank, world * workers
                theirs = list(split_by_worker(split_by_node(order)))
                assert list(images._own(reader, readers, 1, StreamPosition(SHARDS))) == theirs


def test_the_order_is_a_function_of_seed_and_epoch(memory: str):
    torch.manual_seed(1)
    first = train(stream(memory), 18)
    torch.manual_seed(2)
    again = train(stream(memory), 18)
    assert keys(first) == keys(again)
    assert all(torch.equal(a.image, b.image) for a, b in zip(first, again, strict=True))
    seen = epochs(first)
    assert {len(names) for names in seen.values()} == {30}
    assert len({tuple(names) for names in seen.values()}) == 3
    assert keys(train(stream(memory, seed=4), 6)) != seen[0]


def test_without_a_buffer_images_follow_each_other_as_in_their_shard(memory: str):
    names = keys(train(stream(memory, buffer=1), 6))
    shards = [names[at : at + EACH] for at in range(0, len(names), EACH)]
    assert all(part == sorted(part) and len({name.split(":")[0] for name in part}) == 1 for part in shards)
    mixed = keys(train(stream(memory, buffer=8), 6))
    assert sorted(mixed) == sorted(names)
    assert mixed != names


def test_crops_depend_on_seed_epoch_and_key_alone(memory: str):
    def crops(batches: list[Batch]) -> dict[tuple[int, str], bytes]:
        return {
            (reading // SHARDS, key): image.numpy().tobytes()
            for batch in batches
            for key, reading, image in zip(batch.key, batch.index.tolist(), batch.image, strict=True)
        }

    alone, two = crops(train(stream(memory), 12)), crops(train(stream(memory, buffer=1), 12, workers=2))
    common = alone.keys() & two.keys()
    assert len(common) >= 30
    assert all(alone[place] == two[place] for place in common)
    assert len({alone[epoch, "shard-0.tar:00"] for epoch in range(2)}) == 2


@pytest.mark.parametrize("stop", [1, 2, 3, 5, 8])
def test_a_resumed_stream_starts_at_shards_that_were_not_begun(stop: int, memory: str):
    before = train(stream(memory, buffer=1), stop)[:stop]
    position = StreamPosition(SHARDS)
    for batch in before:
        position.note(batch)
    state = pickle.loads(pickle.dumps(position.state()))
    for world in (1, 2, 3):
        images = stream(memory, buffer=1)
        after = [
            batch for rank in range(world)
            for batch in train(images, 6, rank=rank, world=world, position=StreamPosition(SHARDS, state))
        ]  # fmt: skip
        done, left = epochs(before), epochs(after)
        for epoch in done:
            begun = {name.split(":")[0] for name in done[epoch]}
            resumed = {name.split(":")[0] for name in left.get(epoch, [])}
            assert begun.isdisjoint(resumed)
            assert len(begun | resumed) == SHARDS
    whole = train(stream(memory, buffer=1), 12)
    after = train(stream(memory, buffer=1), 12 - stop, position=StreamPosition(SHARDS, state))
    assert keys(after) == keys(whole[stop:]), "with a shard per batch and one reader nothing is lost at all"


def test_what_other_ranks_begin_meanwhile_does_not_change_who_reads_what(memory: str):
    def read(disturbed: bool) -> list[str]:
        position, names = StreamPosition(SHARDS), []
        for batch in train_stream_loader(stream(memory), 5, 9, rank=1, world=2, position=position):
            names += batch.key
            if disturbed:  # as when a checkpoint takes in a rank that is an epoch ahead
                position.note(Batch(batch.image, batch.label, batch.index + SHARDS + 1, batch.key))
                position.state()
        return names

    assert read(disturbed=True) == read(disturbed=False)


def test_the_position_forgets_epochs_that_are_over():
    position = StreamPosition(2)
    image, index = torch.zeros(5, 3, 1, 1, dtype=torch.uint8), torch.tensor([0, 1, 1, 3, 4])
    position.note(Batch(image, index, index, list("abcde")))
    assert position.state() == {"epoch": 1, "begun": {1: [1], 2: [0]}}
    position.note(Batch(image, index, torch.tensor([2, 2, 2, 2, 2]), list("abcde")))
    assert position.state() == {"epoch": 2, "begun": {2: [0]}}


def test_fewer_shards_than_readers_are_refused_with_both_numbers(memory: str):
    with pytest.raises(InputError, match=r"6 shards for 8 readers \(4 processes x 2 .*lower trainer.workers"):
        train_stream_loader(stream(memory), 5, 3, workers=2, world=4)


def test_a_bad_image_is_left_out_and_named(memory: str, write_shard: Write, tmp_path: Path, picture: Callable):
    path = write_shard(tmp_path / "bad.tar", [("1.png", picture(1)), ("2.png", b"<html>"), ("3.png", picture(3))])
    fsspec.filesystem("memory").pipe("/set/bad.tar", path.read_bytes())
    (batch,) = evaluation_loader(WebDataset("memory://set/bad.tar").evaluation(8), 9)
    assert batch.key == ["bad.tar:1", "bad.tar:3"]
    assert batch.bad == ["bad.tar:2: is a web page, not JPEG, PNG, WebP or AVIF; convert or remove it"]
    (first, second) = train(stream("memory://set/bad.tar", buffer=1), 2)
    assert first.key + second.key == ["bad.tar:1", "bad.tar:3"] * 5
    assert (first.bad, second.bad) == (batch.bad * 2, batch.bad * 3)


def test_nothing_but_bad_images_ends_with_one_line(memory: str, write_shard: Write, tmp_path: Path):
    path = write_shard(tmp_path / "bad.tar", [(f"{i}.png", b"<html>") for i in range(5)])
    fsspec.filesystem("memory").pipe("/set/bad.tar", path.read_bytes())
    with pytest.raises(InputError, match=r"no image could be decoded in 32 tries, the last being bad.tar:"):
        train(stream("memory://set/bad.tar"), 2, workers=1)


def test_held_out_images_are_those_of_the_hash_wherever_they_are_read(memory: str):
    data = WebDataset(memory, val_fraction=0.3)
    training = data.train(8, 0)
    assert isinstance(training, ImageStream)
    seen = set(keys(train(training, 40)))
    held_out = set(keys(list(evaluation_loader(data.validation(8), 4))))
    assert seen.isdisjoint(held_out)
    assert len(seen | held_out) == SHARDS * EACH
    assert len(held_out) > 2
    (shown,) = spread_loader(data.validation(8), 2)
    assert len(shown.key) == 2


def test_a_stream_without_an_image_of_its_part_says_so(memory: str):
    data = WebDataset(memory, val_fraction=1e-9)
    with pytest.raises(InputError, match="no held-out image"):
        spread_loader(data.validation(8), 2)
    images = WebDataset(memory, val_fraction=1 - 1e-9).train(8, 0)
    assert isinstance(images, ImageStream)
    with pytest.raises(InputError, match="all are held out"):
        train(images, 1)


def test_local_and_remote_paths_may_stand_side_by_side(memory: str, folder: Path):
    assert len(keys(list(evaluation_loader(WebDataset(memory, val_path=folder).validation(8), 4)))) == 30
    assert len(keys(list(evaluation_loader(WebDataset(folder, val_path=memory).validation(8), 4)))) == 30


@pytest.mark.parametrize("after", [0, 300, 3000, 9000])
def test_a_connection_that_breaks_is_taken_up_again_without_losing_or_repeating(
    after: int, http: str, folder: Path, pauses: list[float]
):
    Handler.breaks, Handler.break_after = 2, after
    names = keys(list(evaluation_loader(WebDataset(http).evaluation(8), 4)))
    assert names == keys(list(evaluation_loader(WebDataset(folder).evaluation(8), 4)))
    assert pauses[0] == module.PAUSES[0]
    assert len(pauses) == 2


def test_a_shard_that_fails_three_times_is_named(http: str, pauses: list[float]):
    Handler.answer = (503, "")
    url = http.replace("//", "//me:secret@") + "?token=secret"
    with pytest.raises(
        InputError, match=r"could not be read in 3 tries \(.*: HTTP 503 Service Unavailable\); see"
    ) as caught:
        list(evaluation_loader(WebDataset(url).evaluation(8), 4))
    assert f"{http.partition('{')[0]}0.tar: HTTP" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(pauses) == 2
    with pytest.raises(InputError, match=r"shard-\d.tar could not be read in 3 tries"):
        train(stream(http), 12)


ANSWERS = {  # what a server may say that another try does not change
    "gone": (404, "", "HTTP 404 Not Found"),
    "forbidden": (403, "", "HTTP 403 Forbidden"),
    "unauthorized": (401, "", "HTTP 401 Unauthorized"),
    "file": (302, "file:///etc/passwd", "it redirects to file:, which is refused"),
    "ftp": (301, "ftp://host/0.tar", "it redirects to ftp:, which is refused"),
    "loop": (302, "{}", "it redirects in a loop"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_stays_is_told_at_once_with_its_reason(answer: str, http: str, pauses: list[float]):
    status, place, reason = ANSWERS[answer]
    Handler.answer = (status, place)
    address = http.replace("{0..5}", "0")
    with pytest.raises(InputError, match=rf"shard-0.tar cannot be read \({address}: {reason}.*\); see that"):
        list(evaluation_loader(WebDataset(http).evaluation(8), 4))
    assert pauses == []


def test_a_shard_that_is_gone_is_named_by_workers_too(http: str, folder: Path):
    (folder / "shard-2.tar").unlink()
    with pytest.raises(
        InputError, match=r"shard shard-2.tar cannot be read \(http://127.*/shard-2.tar: HTTP 404"
    ) as caught:
        list(evaluation_loader(WebDataset(http).evaluation(8), 4, workers=1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("size", "reason"), [(0, "is empty"), (100, "is not a tar"), (2048, "torn"), (700, "torn")])
def test_a_torn_shard_is_never_taken_for_a_whole_one(size: int, reason: str, memory: str, folder: Path):
    fsspec.filesystem("memory").pipe("/set/shard-1.tar", (folder / "shard-1.tar").read_bytes()[:size])
    with pytest.raises(InputError, match=rf"shard-1.tar could not be read in 3 tries \(.*{reason}"):
        list(evaluation_loader(WebDataset(memory).evaluation(8), 4))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("pipe:curl http://host/0.tar", "command, which is never run"),
        ("http://host/0.tar | cat", "command"),
        ("simplecache::http://host/0.tar", "is a command or a chain|plain path"),
        ("https://host/{0..1.tar", "brace"),
        ("https://host/*.tar", "star"),
        ("https://host/{0,0}.tar", "names 0.tar twice"),
        ("{http://host/0.tar,/data/0.tar}", "plain path"),
    ],
)
def test_urls_that_are_no_plain_shards_are_refused(path: str, reason: str):
    with pytest.raises(InputError, match=reason):
        WebDataset(path).train(8, 0)


def test_an_unknown_kind_of_storage_is_named(pauses: list[float]):
    with pytest.raises(InputError, match=r"0.tar cannot be read \(.*[Pp]rotocol"):
        list(evaluation_loader(WebDataset("nonsense://host/0.tar").evaluation(8), 4))
    assert is_remote("S3://bucket/0.tar")


def test_names_hold_no_secret_and_tell_shards_apart():
    shards = find_remote("https://me:secret@host/{a,b}/0.tar?token=secret", 9)
    assert [shard.name for shard in shards] == ["a/0.tar", "b/0.tar"]
    assert "secret" in shards[0].url
    with pytest.raises(InputError, match="names more than 9 shards"):
        find_remote("https://host/{0..99}.tar", 9)


def test_an_index_of_remote_shards_is_refused(memory: str, tmp_path: Path):
    with pytest.raises(ValueError, match="index must be null for remote shards"):
        WebDataset(memory, index=tmp_path / "index")


def test_a_server_that_gives_no_parts_serves_shards_larger_than_a_part(
    http: str, folder: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
):
    class Parts(fsspec.get_filesystem_class("http")):
        cachable = False

        def __init__(self, block_size: int | None = None, **options: Any) -> None:
            super().__init__(block_size=1000 if block_size is None else block_size, **options)

    monkeypatch.setattr(sys.modules["fsspec.registry"], "get_filesystem_class", lambda _: Parts)
    names = keys(list(evaluation_loader(WebDataset(http).evaluation(8), 4)))
    assert names == keys(list(evaluation_loader(WebDataset(folder).evaluation(8), 4)))
    assert pauses == []


def local_stream(folder: Path, **settings: Any) -> WebDataset:
    return WebDataset(folder, access="stream", **settings)


def test_local_shards_as_a_stream_are_the_images_of_random_access_and_come_in_the_order_of_remote_ones(
    folder: Path, memory: str
):
    def content(data: WebDataset, workers: int = 0) -> list[tuple[str, int, bytes]]:
        batches = list(evaluation_loader(data.evaluation(8), 4, workers))
        rows = [zip(batch.key, batch.label.tolist(), batch.image, strict=True) for batch in batches]
        return sorted((key, label, image.numpy().tobytes()) for row in rows for key, label, image in row)

    assert content(local_stream(folder)) == content(local_stream(folder), 2) == content(WebDataset(folder))
    for workers in (0, 2):
        here = local_stream(folder, val_fraction=0.1, shuffle_buffer=4).train(8, 3)
        there = WebDataset(memory, val_fraction=0.1, shuffle_buffer=4).train(8, 3)
        assert isinstance(here, ImageStream)
        assert isinstance(there, ImageStream)
        ours, theirs = train(here, 12, workers), train(there, 12, workers)
        assert keys(ours) == keys(theirs)
        assert all(torch.equal(one.image, other.image) for one, other in zip(ours, theirs, strict=True))


def test_held_out_shards_of_a_local_stream_are_not_trained_on_whatever_they_are_called(folder: Path, tmp_path: Path):
    (tmp_path / "held.tar").symlink_to(folder / "shard-2.tar")
    data = local_stream(folder, val_path=tmp_path / "held.tar")
    images = data.train(8, 0)
    assert isinstance(images, ImageStream)
    assert "shard-2.tar" not in [shard.name for shard in images.shards]
    assert "1 of 6 shards of data.path" in images.remarks[-1]
    assert len(keys(list(evaluation_loader(data.validation(8), 4)))) == EACH
    assert len(keys(list(evaluation_loader(data.evaluation(8, "train"), 4)))) == (SHARDS - 1) * EACH


def test_a_local_stream_reads_names_of_classes_and_names_what_it_cannot_use(
    folder: Path, tmp_path: Path, write_shard: Write, picture: Callable[[int], bytes]
):
    (tmp_path / "named").mkdir()
    write_shard(tmp_path / "named/0.tar", [("1.png", picture(1)), ("1.cls", b"owl")])
    with pytest.raises(InputError, match=r"a stream cannot number names .* write the shards with imtok pack"):
        list(evaluation_loader(local_stream(tmp_path / "named").evaluation(8), 4))
    (tmp_path / "named/classes.json").write_text('{"fox": 0, "owl": 1}')
    (tmp_path / "named/2.png").write_bytes(picture(2))
    data = local_stream(tmp_path / "named", val_path=tmp_path / "named/0.tar")
    assert [batch.label.tolist() for batch in evaluation_loader(data.evaluation(8), 4)] == [[1]]
    assert [batch.label.tolist() for batch in evaluation_loader(data.validation(8), 4)] == [[1]]
    assert "1 .png beside its shards" in data.evaluation(8).remarks[0]
    with pytest.raises(InputError, match=r"shard-6\.tar cannot be read \(No such file"):
        local_stream(folder / "shard-{0..9}.tar").train(8, 0)
    (folder / "shard-1.tar").write_bytes((folder / "shard-1.tar").read_bytes()[:2048])
    with pytest.raises(
        InputError, match=rf"shard-1\.tar could not be read in 3 tries \({folder}/shard-1\.tar: is torn"
    ):
        list(evaluation_loader(local_stream(folder).evaluation(8), 4))
    for setting, value in (("index", tmp_path / "index"), ("shuffle_shards", 3)):
        with pytest.raises(ValueError, match=f"{setting} must be null with access=stream"):
            local_stream(folder, **{setting: value})


class Counting:
    """An opener of one's own: shards from a dictionary, by any URL."""

    def __init__(self, shards: dict[str, bytes]) -> None:
        self.shards, self.opened = shards, list[str]()

    def __call__(self, url: str) -> io.BytesIO:
        self.opened.append(url)
        return io.BytesIO(self.shards[url])


def test_an_opener_of_ones_own_reads_what_fsspec_does_not_know(folder: Path, memory: str):
    shards = {f"vault://host/shard-{at}.tar": (folder / f"shard-{at}.tar").read_bytes() for at in range(SHARDS)}
    opener = Counting(shards)
    data = WebDataset(f"vault://host/shard-{{0..{SHARDS - 1}}}.tar", opener=opener)
    shown = list(evaluation_loader(data.evaluation(8), 4))
    assert opener.opened == list(shards)
    plain = list(evaluation_loader(WebDataset(memory).evaluation(8), 4))
    assert [batch.key for batch in shown] == [batch.key for batch in plain]
    assert all(torch.equal(ours.image, theirs.image) for ours, theirs in zip(shown, plain, strict=True))
    training = train_stream_loader(data.train(8, 0), 4, 6, workers=2)
    assert sum(len(batch.key) for batch in training) == 24


def test_an_opener_that_fails_is_named_by_shard(pauses: list[float]):
    data = WebDataset("vault://host/shard-{0..1}.tar", opener=Counting({}))
    with pytest.raises(InputError, match=r"shard shard-0\.tar could not be read in 3 tries"):
        list(evaluation_loader(data.evaluation(8), 4))
