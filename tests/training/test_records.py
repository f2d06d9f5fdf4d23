"""The log is whole whatever happens to the disk, the network or the process; and it holds no secret."""

import json
import os
import socket
import sys
import time
import types
from pathlib import Path

import pytest
from training.launch import launch_train
from training.runs import run_tiny

from imtok.training import records
from imtok.training.records import Events, MetricsFile
from imtok.training.wandb import Wandb, _address


def steps(folder):
    return [int(line.split(",")[0]) for line in (folder / "metrics.csv").read_text().splitlines()[1:]]


def test_a_row_that_a_kill_or_a_full_disk_tore_is_forgotten(tmp_path):
    path = tmp_path / "metrics.csv"
    MetricsFile(path).write(10, {"loss": 0.5, "usage": 1.0})
    MetricsFile(path).write(20, {"loss": 0.25, "usage": 1.0})
    whole = path.read_text()
    for torn in ("3", "30,0.1", "30,0.1,1."):
        path.write_text(whole + torn)
        file = MetricsFile(path)
        assert [row["step"] for row in file.rows] == ["10", "20"]
        file.write(30, {"loss": 0.1, "usage": 1.0})
        assert path.read_text().replace("\r", "") == whole.replace("\r", "") + "30,0.1,1.0\n"
        path.write_text(whole)


def test_a_file_that_is_no_log_is_begun_anew(tmp_path):
    for content in ("", "<html>", "a,b\n1,2\n", "step\nx\n"):
        (tmp_path / "metrics.csv").write_text(content)
        file = MetricsFile(tmp_path / "metrics.csv")
        file.write(1, {"loss": 0.5})
        assert (tmp_path / "metrics.csv").read_text().split() == ["step,loss", "1,0.5"]


def test_a_new_name_becomes_a_column_and_a_step_stands_once(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv")
    file.write(1, {"loss": 0.5})
    file.write(2, {"loss": 0.4, "critic": 1.0})
    file.write(2, {"loss": 0.3, "critic": 1.0})
    assert (tmp_path / "metrics.csv").read_text().split() == ["step,loss,critic", "1,0.5,", "2,0.3,1.0"]


def test_a_full_log_folder_costs_rows_but_not_the_run(tmp_path, monkeypatch, caplog):
    written = records.write_bytes
    full = [True]

    def refuse(path: Path, data: bytes) -> None:
        if full[0] and path.name == "metrics.csv":
            raise OSError(28, "No space left on device")
        written(path, data)

    def checkpoint_at(*_args):
        full[0] = False  # from step 9 on there is room again

    monkeypatch.setattr(records, "write_bytes", refuse)
    original = Events.write

    def write(events, event, **details):
        if event == "checkpoint" and details["step"] == 8:
            checkpoint_at()
        original(events, event, **details)

    monkeypatch.setattr(Events, "write", write)
    assert run_tiny(tmp_path / "run", "trainer.save_every=8").step == 14
    assert "metrics.csv could not be written (No space left on device)" in caplog.text
    assert steps(tmp_path / "run") == [3, 6, 9, 12, 14]


def test_events_outlive_a_folder_that_takes_no_line_and_lines_that_are_torn(tmp_path, caplog):
    events = Events(tmp_path / "missing/events.jsonl")
    events.write("start", step=0)
    assert "could not be written" in caplog.text
    assert events.read() == []
    events = Events(tmp_path / "events.jsonl")
    events.write("start", step=0)
    with events.path.open("a") as file:
        file.write('{"event": "sig')
    assert [event["event"] for event in events.read()] == ["start"]
    Events(tmp_path / "other.jsonl", main=False).write("start", step=0)
    assert not (tmp_path / "other.jsonl").exists()


class FakeRun:
    """Of wandb; dies after so many calls."""

    def __init__(self, calls):
        self.calls, self.rows = calls, []

    id = "abc"

    def define_metric(self, *_args, **_given):
        pass

    def log(self, values, step=None):
        self.calls -= 1
        if self.calls < 0:
            raise ConnectionError("the network is gone")
        self.rows.append(values)

    def finish(self):
        if self.calls < 0:
            raise ConnectionError("the network is gone")


@pytest.fixture
def fake(monkeypatch):
    """A wandb that notes how it was called."""
    module = types.ModuleType("wandb")
    module.calls = []  # type: ignore[attr-defined]
    module.run = FakeRun(999)  # type: ignore[attr-defined]
    module.Settings = lambda **given: given  # type: ignore[attr-defined]
    module.Image = str  # type: ignore[attr-defined]

    def init(**given):
        module.calls.append(given)  # type: ignore[attr-defined]
        return module.run  # type: ignore[attr-defined]

    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in list(os.environ):
        if name.startswith("WANDB_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", "/nowhere")
    monkeypatch.setattr("imtok.training.wandb._has_netrc", lambda _host: False)
    return module


def test_without_wandb_installed_the_run_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert run_tiny(tmp_path / "run", "logger=wandb").step == 14
    assert "wandb is off for the rest of this run" in caplog.text
    assert steps(tmp_path / "run") == [3, 6, 9, 12, 14]


def test_without_a_key_it_works_offline(tmp_path, fake, caplog):
    Wandb(tmp_path, {}, {}).start()
    assert fake.calls[0]["mode"] == "offline"
    assert "no API key" in caplog.text


@pytest.mark.parametrize("obstacle", ["no route", "slow names"])
def test_without_a_network_the_start_waits_less_than_five_seconds(tmp_path, fake, monkeypatch, obstacle):
    monkeypatch.setenv("WANDB_API_KEY", "x")

    def connect(*_args, **_kwargs):
        time.sleep(60 if obstacle == "slow names" else 0)
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", connect)
    start = time.monotonic()
    Wandb(tmp_path, {}, {}).start()
    assert time.monotonic() - start < 5
    assert fake.calls[0]["mode"] == "offline"


def test_when_it_dies_in_the_middle_the_run_goes_on_and_the_log_is_complete(tmp_path, fake, caplog):
    fake.run.calls = 2
    assert run_tiny(tmp_path / "run", "logger=wandb").step == 14
    assert [row["trainer/global_step"] for row in fake.run.rows] == [3, 6]
    assert "the network is gone" in caplog.text
    assert steps(tmp_path / "run") == [3, 6, 9, 12, 14]


def test_it_gets_the_rows_of_the_log(tmp_path, fake):
    run_tiny(tmp_path / "run", "logger=wandb", "trainer.pictures_every=7")
    assert [row["trainer/global_step"] for row in fake.run.rows if "loss" in row] == steps(tmp_path / "run")
    assert [row["trainer/global_step"] for row in fake.run.rows if "reconstructions" in row] == [7, 14]


def test_a_run_that_goes_on_is_one_run_there(tmp_path, fake):
    run_tiny(tmp_path / "run", "logger=wandb", "trainer.stop_at=2")
    run_tiny(tmp_path / "run", "logger=wandb", "ckpt=last", "trainer.stop_at=4", "allow_change=[trainer.stop_at]")
    run_tiny(tmp_path / "other", "logger=wandb", "trainer.stop_at=2")
    first, second, other = fake.calls
    assert first["id"] == second["id"] == (tmp_path / "run/wandb/id").read_text()
    assert other["id"] != first["id"]
    assert {call["resume"] for call in fake.calls} == {"allow"}


def test_what_the_environment_says_holds(tmp_path, fake, monkeypatch):
    Wandb(tmp_path, {}, {}).start()
    given = {"PROJECT": "mine", "ENTITY": "us", "NAME": "best", "RUN_ID": "abc"}
    for name, value in given.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    Wandb(tmp_path, {}, {}).start()
    shown = [tuple(call[name] for name in ("project", "entity", "name")) for call in fake.calls]
    assert shown == [("imtok", None, tmp_path.name), ("mine", "us", "best")]
    assert fake.calls[1]["id"] == "abc"


@pytest.mark.parametrize("through", ["WANDB_BASE_URL", "https_proxy"])
def test_a_server_is_looked_for_where_it_is(tmp_path, fake, monkeypatch, through):
    monkeypatch.setenv("WANDB_API_KEY", "x")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv(through, f"http://127.0.0.1:{server.getsockname()[1]}")
        Wandb(tmp_path, {}, {}).start()
    Wandb(tmp_path, {}, {}).start()
    assert [call["mode"] for call in fake.calls] == ["online", "offline"]


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://wandb.lab:8080", ("wandb.lab", 8080)),
        ("http://wandb.lab/", ("wandb.lab", 80)),
        ("https://wandb.lab", ("wandb.lab", 443)),
        ("wandb.lab:9000", ("wandb.lab", 9000)),
        ("http://[::1]:8080", ("::1", 8080)),
    ],
)
def test_a_url_names_host_and_port(url, address):
    assert _address(url) == address


def test_no_value_of_the_environment_is_in_any_file_of_a_run(tmp_path):
    secret = "e1b7a5c0ffee"
    names = ("IMTOK_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD")
    process = launch_train(tmp_path / "run", environment=dict.fromkeys(names, secret))
    assert process.wait() == 0, process.output
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        assert secret.encode() not in path.read_bytes()
    assert secret not in process.output
    assert json.loads((tmp_path / "run/run.json").read_text())["config"]["seed"] == 0


@pytest.mark.parametrize("override", ["name=${oc.env:HF_TOKEN}", "name='x-${oc.decode:${oc.env:HF_TOKEN}}'"])
def test_a_config_that_reads_the_environment_is_refused(tmp_path, override):
    """Whatever it reads would be in config.yaml, in run.json and in every checkpoint."""
    process = launch_train(tmp_path / "run", override, environment={"HF_TOKEN": "e1b7a5c0ffee"})
    assert process.wait() == 2, process.output
    assert "name" in process.output
    assert "e1b7a5c0ffee" not in process.output
    assert not (tmp_path / "run").exists()
