"""Servers that break off or answer with errors, torn shards, URLs that are no shards, and openers of one's own."""

import io
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from data.served import SHARDS, Handler, keys, stream, train

from imtok.data.archives import transport as module
from imtok.data.archives.remote import find_remote, is_remote
from imtok.data.order.loader import evaluation_loader, train_loader
from imtok.data.order.sampler import Steps
from imtok.data.sources.webdataset import WebDataset
from imtok.errors import InputError

pytestmark = pytest.mark.usefixtures("pauses")


@pytest.mark.parametrize("after", [0, 300, 3000, 9000])
def test_a_connection_that_breaks_is_taken_up_again_without_losing_or_repeating(
    after: int, http: str, served: Path, pauses: list[float]
):
    Handler.breaks, Handler.break_after = 2, after
    names = keys(list(evaluation_loader(WebDataset(http).evaluation(8), 4)))
    assert names == keys(list(evaluation_loader(WebDataset(served).evaluation(8), 4)))
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


def test_a_shard_that_is_gone_is_named_by_workers_too(http: str, served: Path):
    (served / "shard-2.tar").unlink()
    with pytest.raises(
        InputError, match=r"shard shard-2.tar cannot be read \(http://127.*/shard-2.tar: HTTP 404"
    ) as caught:
        list(evaluation_loader(WebDataset(http).evaluation(8), 4, workers=1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("size", "reason"), [(0, "is empty"), (100, "is not a tar"), (2048, "torn"), (700, "torn")])
def test_a_torn_shard_is_never_taken_for_a_whole_one(size: int, reason: str, memory: str, served: Path):
    fsspec.filesystem("memory").pipe("/set/shard-1.tar", (served / "shard-1.tar").read_bytes()[:size])
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
    http: str, served: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
):
    class Parts(fsspec.get_filesystem_class("http")):
        cachable = False

        def __init__(self, block_size: int | None = None, **options: Any) -> None:
            super().__init__(block_size=1000 if block_size is None else block_size, **options)

    monkeypatch.setattr(sys.modules["fsspec.registry"], "get_filesystem_class", lambda _: Parts)
    names = keys(list(evaluation_loader(WebDataset(http).evaluation(8), 4)))
    assert names == keys(list(evaluation_loader(WebDataset(served).evaluation(8), 4)))
    assert pauses == []


class Counting:
    """An opener of one's own: shards from a dictionary, by any URL."""

    def __init__(self, shards: dict[str, bytes]) -> None:
        self.shards, self.opened = shards, list[str]()

    def __call__(self, url: str) -> io.BytesIO:
        self.opened.append(url)
        return io.BytesIO(self.shards[url])


def test_an_opener_of_ones_own_reads_what_fsspec_does_not_know(served: Path, memory: str):
    shards = {f"vault://host/shard-{at}.tar": (served / f"shard-{at}.tar").read_bytes() for at in range(SHARDS)}
    opener = Counting(shards)
    data = WebDataset(f"vault://host/shard-{{0..{SHARDS - 1}}}.tar", opener=opener)
    shown = list(evaluation_loader(data.evaluation(8), 4))
    assert opener.opened == list(shards)
    plain = list(evaluation_loader(WebDataset(memory).evaluation(8), 4))
    assert [batch.key for batch in shown] == [batch.key for batch in plain]
    assert all(torch.equal(ours.image, theirs.image) for ours, theirs in zip(shown, plain, strict=True))
    images = data.train(8, 0)
    training = train_loader(images, images.training_batches(Steps(seed=0, global_batch=4, total_steps=6)), workers=2)
    assert sum(len(batch.key) for batch in training) == 24


def test_an_opener_that_fails_is_named_by_shard(pauses: list[float]):
    data = WebDataset("vault://host/shard-{0..1}.tar", opener=Counting({}))
    with pytest.raises(InputError, match=r"shard shard-0\.tar could not be read in 3 tries"):
        list(evaluation_loader(data.evaluation(8), 4))
