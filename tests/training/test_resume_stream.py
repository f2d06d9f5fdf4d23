"""A run on remote shards: resumed at the next shard, with what was begun in its checkpoints."""

import logging
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
from training.faults import TokenizerTask
from training.launch import launch_ddp
from training.runs import run_tiny, write_images, write_shards

from imtok.errors import InputError
from imtok.training.checkpoints import load
from imtok.training.resume import changes

URL = "data.path='memory://training/{000..005}.tar'"  # quoted for Hydra
STREAM = ["data=webdataset", URL, "data.val_path=memory://training/held.tar", "data.shuffle_buffer=4"]


@pytest.fixture(autouse=True)
def _shards(tmp_path):
    """Six shards of four images."""
    files = fsspec.filesystem("memory")
    folder = write_shards(tmp_path / "shards", write_images(tmp_path / "images", 24), shards=6)
    (folder / "held.tar").write_bytes((folder / "000.tar").read_bytes())
    for path in folder.iterdir():
        files.pipe(f"/training/{path.name}", path.read_bytes())
    yield
    files.rm("/training", recursive=True)


@pytest.fixture
def readings(monkeypatch):
    """Key and reading (epoch x 6 + shard) of the images that were trained on, in order."""
    seen: list[tuple[int, str]] = []
    original = TokenizerTask.training_step

    def noted(task, batch, batch_idx):
        seen.extend(zip(batch.index.tolist(), batch.key, strict=True))
        original(task, batch, batch_idx)

    monkeypatch.setattr(TokenizerTask, "training_step", noted)
    return seen


def test_a_run_on_a_stream_ends_with_a_report(tmp_path, readings):
    outcome = run_tiny(tmp_path / "run", *STREAM, "trainer.pictures_every=7", "trainer.workers=1")
    assert outcome.report is not None
    assert outcome.report.images == 4
    assert (tmp_path / "run/images/step_7.png").exists()
    assert len(readings) == 56
    assert len(set(readings[:24])) == 24
    assert {reading // 6 for reading, _ in readings[:24]} == {0}


@pytest.mark.parametrize("stops", [(1,), (3, 4), (5, 7, 12)])
def test_no_image_is_seen_twice_in_an_epoch_however_often_the_run_stops(stops, tmp_path, readings, caplog):
    for stop in stops:
        run_tiny(tmp_path / "run", *STREAM, "ckpt=last", f"trainer.stop_at={stop}")
    begun = load(tmp_path / f"run/checkpoints/step_{stops[-1]}").state["stream"]
    known = {reading for reading, _ in readings}
    assert {epoch * 6 + shard for epoch, shards in begun["begun"].items() for shard in shards} == {
        reading for reading in known if reading // 6 >= begun["epoch"]
    }
    caplog.clear()
    before = len(readings)
    with caplog.at_level(logging.INFO):
        run_tiny(tmp_path / "run", *STREAM, "ckpt=last", "trainer.accumulate=2")
    assert "going on at the next shard boundary of epoch" in caplog.text
    assert len(readings) == 56
    assert len(set(readings)) == 56
    assert {reading for reading, _ in readings[before:]}.isdisjoint(known)
    done = {reading for reading, _ in readings}
    assert done >= {reading for reading in range(6) if stops == (1,)}, "no shard of an epoch is left out"


def test_a_stream_of_local_shards_resumes_at_the_next_shard_too(tmp_path, readings):
    local = ["data=webdataset", "data.access=stream", f"data.path={tmp_path}/shards/{{000..005}}.tar", *STREAM[2:]]
    local[2] = local[2].replace("data.path=", "data.path='") + "'"
    run_tiny(tmp_path / "run", *local, "trainer.stop_at=3")
    before = {reading for reading, _ in readings}
    run_tiny(tmp_path / "run", *local, "ckpt=last", "trainer.stop_at=6")
    assert {reading for reading, _ in readings[12:]}.isdisjoint(before)
    assert len(set(readings)) == 24


def test_a_run_of_before_access_could_be_set_goes_on(tmp_path):
    run_tiny(tmp_path / "run", *STREAM, "trainer.stop_at=2")
    resume = load(tmp_path / "run/checkpoints/step_2")
    now = resume.about["config"]
    before = {**now, "data": {key: value for key, value in now["data"].items() if key != "access"}}
    assert changes(before, now) == {}
    assert changes(before, {**now, "data": {**now["data"], "access": "stream"}}) == {
        "data.access": ("random", "stream")
    }


def test_another_list_of_shards_is_refused(tmp_path):
    run_tiny(tmp_path / "run", *STREAM, "trainer.stop_at=2")
    fewer = [argument.replace("005", "004") for argument in STREAM]
    with pytest.raises(InputError, match=r"6 shards then, 5 shards now"):
        run_tiny(tmp_path / "run", *fewer, "ckpt=last", "allow_change=[data.path]")


def test_too_many_workers_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"6 shards for 7 readers"):
        run_tiny(tmp_path / "run", *STREAM, "trainer.workers=7")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        """Say nothing."""


@pytest.fixture
def url(tmp_path):
    """The same shards behind a URL that other processes can read."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "shards")))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_two_ranks_stop_and_go_on_without_reading_a_shard_twice(tmp_path, url):
    """What either rank has begun is in the checkpoint that the first one writes."""
    stream = [f"data.path='{url}{{000..005}}.tar'", f"data.val_path={url}held.tar", "data.shuffle_buffer=2"]

    def train_to(stop):
        fault = f"training.faults:readings:{tmp_path}/to_{stop}"
        ranks = launch_ddp(
            tmp_path / "run", 2, "data=webdataset", *stream, "ckpt=last", f"trainer.stop_at={stop}", fault=fault
        )
        assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].output + ranks[1].output
        lines = [(tmp_path / f"to_{stop}.{rank}").read_text().splitlines() for rank in range(2)]
        seen = [[(int(reading), key) for reading, key in map(str.split, own)] for own in lines]
        begun = [{reading for reading, _ in own} for own in seen]
        assert begun[0].isdisjoint(begun[1]), "each shard has one reader"
        assert len(seen[0]) == len(seen[1])
        return seen[0] + seen[1], begun

    first, begun = train_to(3)
    assert len(first) == 12
    assert begun[0]
    assert begun[1]
    state = load(tmp_path / "run/checkpoints/step_3").state["stream"]
    assert state == {"epoch": 0, "begun": {0: sorted(begun[0] | begun[1])}}
    second, after = train_to(9)
    assert len(second) == 24
    assert (after[0] | after[1]).isdisjoint(begun[0] | begun[1])
    assert begun[0] | begun[1] | after[0] | after[1] >= set(range(6)), "no shard of an epoch is left out"
    assert len(set(first + second)) == 36
